"""Finds each query's place in a database of photos: python eval.py --help."""

from __future__ import annotations

import logging
import shlex
from typing import Annotated

from mixvpr_jax.errors import ending_at_once, starting

with starting(__name__):
    import tyro

    from mixvpr_jax.distributed import ALONE, ProcessConfig, is_first, joined, run_and_leave
    from mixvpr_jax.evaluation.config import EvaluationConfig


def main() -> None:
    """Evaluates as the command line says."""
    logging.basicConfig(format="%(message)s")
    tyro.cli(command, description=__doc__, config=(tyro.conf.AvoidSubcommands,))


def command(
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")],
    processes: Annotated[ProcessConfig, tyro.conf.arg(name="")] = ALONE,
) -> None:
    """Evaluates, as one of several processes where there are others."""
    with ending_at_once():
        import mixvpr_jax.evaluation.evaluate  # noqa: F401 (after --help has had its say)

    with joined(processes, preemption=False):
        run(config)


def run(config: EvaluationConfig) -> None:
    """Evaluates, and prints what came of it."""
    from mixvpr_jax.evaluation.evaluate import evaluate

    evaluation = evaluate(config)
    if not is_first():
        return
    for reason in evaluation.unreadable:
        print(f"skipped: {reason}")
    if evaluation.unreadable:
        print(f"skipped {len(evaluation.unreadable)} unreadable images")
    if turned := sum(evaluation.num_turned):
        print(
            f"{turned} images were turned upright by their EXIF orientation, which other "
            "evaluation code does not do"
        )
    print("\n".join(evaluation.data.describe()))
    print(evaluation.headline())
    print(f"report: {shlex.quote(str(config.output / 'report.html'))}")


if __name__ == "__main__":
    run_and_leave(main)
