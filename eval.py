"""Finds each query's place in a database of photos: python eval.py --help."""

from __future__ import annotations

import logging

import tyro

from mixvpr_jax.config import EvaluationConfig
from mixvpr_jax.errors import run_command


def main() -> None:
    """Evaluates as the command line says, and prints recall and where the report lies."""
    logging.basicConfig(format="%(message)s")
    config = tyro.cli(EvaluationConfig, description=__doc__)
    from mixvpr_jax.evaluation.evaluate import evaluate  # after --help has had its say

    evaluation = evaluate(config)
    for reason in evaluation.unreadable:
        print(f"skipped: {reason}")
    if evaluation.unreadable:
        print(f"skipped {len(evaluation.unreadable)} unreadable images")
    print("\n".join(evaluation.data.describe()))
    print(evaluation.headline())
    print(f"report: {config.output / 'report.html'}")


if __name__ == "__main__":
    run_command(main)
