"""The prediction file that Mapillary's own evaluation script takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath, atomic_write

MOST_PREDICTIONS = 25  # the script looks at 20


def write_submission(path: Path, evaluation_set: EvaluationSet, predictions: np.ndarray) -> None:
    """Writes a line a query: its key, then those of its nearest images, separated by spaces.

    `evaluate.py` of mapillary_sls reads it with `--prediction`. The file appears whole or not at
    all.

    Args:
        path: Where to.
        evaluation_set: Whose images are named by their keys, as msls-test's are.
        predictions: [q, k] database indices, nearest first; 25 of them are written at most.

    Raises:
        InputError: A name that the format cannot hold.
    """
    if len(predictions) != len(evaluation_set.queries):
        raise ValueError(f"{len(predictions)} predictions, {len(evaluation_set.queries)} queries")
    queries = _keys(evaluation_set.queries)
    database = np.array(_keys(evaluation_set.database))
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query, row in zip(queries, predictions[:, :MOST_PREDICTIONS], strict=True):
            file.write(f"{' '.join([query, *database[row]])}\n")


def _keys(paths: Sequence[AnyPath]) -> list[str]:
    """Names without ending; a comma would be a sequence there, "#" a comment."""
    keys = [path.stem for path in paths]
    for key, path in zip(keys, paths, strict=True):
        if not key or any(sign.isspace() or sign in ",#" for sign in key):
            raise InputError(f"{path}: expected a key without spaces, commas and #, found {key!r}")
    return keys
