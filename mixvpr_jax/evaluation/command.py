"""Finds each query's place in a database of photos and reports recall@k."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from typing import Annotated, NoReturn

import tyro

from mixvpr_jax.distributed import ALONE, ProcessConfig, is_main_process, joined, run_and_leave
from mixvpr_jax.errors import ending_at_once, extra
from mixvpr_jax.evaluation.config import EvaluationConfig


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
    with ending_at_once(), extra("eval", "mixvpr eval: expected its packages"):
        import mixvpr_jax.evaluation.evaluate  # noqa: F401 (after --help has had its say)

    with joined(processes, preemption=False):
        evaluate_and_tell(config)


def evaluate_and_tell(config: EvaluationConfig) -> None:
    """Evaluates, and prints what came of it."""
    from mixvpr_jax.evaluation.evaluate import evaluate
    from mixvpr_jax.report import write_report

    evaluation = evaluate(config, write_report)
    if not is_main_process():
        return
    lines = [f"skipped: {reason}" for reason in evaluation.unreadable]
    if evaluation.unreadable:
        lines.append(f"skipped {len(evaluation.unreadable)} unreadable images")
    if turned := sum(evaluation.num_turned):
        lines.append(
            f"{turned} images were turned upright by their EXIF orientation, which other "
            "evaluation code does not do"
        )
    lines += [*evaluation.data.describe(), evaluation.headline()]
    print("\n".join(lines), f"report: {shlex.quote(str(config.output / 'report.html'))}", sep="\n")
