"""Finds each query's place in a database of photos and reports recall@k."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import tyro

from mixvpr_jax.errors import ending_at_once
from mixvpr_jax.evaluation.config import EvaluationConfig
from mixvpr_jax.processes import ALONE, ProcessConfig, run_and_leave


def run(arguments: list[str], prog: str) -> NoReturn:
    """Evaluates as the command line says, and ends the process."""
    run_and_leave(lambda: parse(arguments, prog))


def parse(arguments: list[str], prog: str) -> None:
    """Evaluates as the command line says."""
    logging.basicConfig(format="%(message)s")
    how = (tyro.conf.AvoidSubcommands,)
    tyro.cli(interface(), prog=prog, description=__doc__, args=arguments, config=how)


def interface() -> Callable[..., None]:
    """What the command line calls."""
    return command


def command(
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")],
    processes: Annotated[ProcessConfig, tyro.conf.arg(name="")] = ALONE,
) -> None:
    """Evaluates, as one of several processes where there are others."""
    with ending_at_once():
        import mixvpr_jax.evaluation.evaluate  # noqa: F401 (after --help has had its say)
        from mixvpr_jax.distributed import joined
        from mixvpr_jax.programs import keep_programs

    keep_programs()
    with joined(processes, preemption=False):
        evaluate_and_tell(config)


def evaluate_and_tell(config: EvaluationConfig) -> None:
    """Evaluates, and prints what came of it."""
    from mixvpr_jax.distributed import is_main_process
    from mixvpr_jax.evaluation.evaluate import evaluate
    from mixvpr_jax.report import write_report

    evaluation = evaluate(config, write_report)
    if not is_main_process():
        return
    lines = lines_of(evaluation.unreadable, sum(evaluation.num_turned))
    lines += [*evaluation.data.describe(), evaluation.headline()]
    print("\n".join(lines), f"report: {shlex.quote(str(config.output / 'report.html'))}", sep="\n")


def lines_of(unreadable: Sequence[str], num_turned: int) -> list[str]:
    """What to tell of images that were skipped or turned."""
    lines = [f"skipped: {reason}" for reason in unreadable]
    if unreadable:
        lines.append(f"skipped {len(unreadable)} unreadable images")
    if num_turned:
        lines.append(
            f"{num_turned} images were turned upright by their EXIF orientation, which other "
            "evaluation code does not do"
        )
    return lines
