"""Finds each query's place in a database of photos: python eval.py --help."""

from __future__ import annotations

import tyro

from mixvpr_jax.config import EvaluationConfig
from mixvpr_jax.errors import run_command


def main() -> None:
    """Evaluates as the command line says, and prints recall and where the report lies."""
    config = tyro.cli(EvaluationConfig, description="Place recognition on two folders of photos.")
    from mixvpr_jax.evaluation.evaluate import evaluate_folders  # after --help has had its say

    evaluation = evaluate_folders(config)
    for reason in evaluation.unreadable:
        print(f"skipped: {reason}")
    if evaluation.unreadable:
        print(f"skipped {len(evaluation.unreadable)} unreadable images")
    print(evaluation.headline())
    print(f"report: {config.output / 'report.html'}")


if __name__ == "__main__":
    run_command(main)
