"""Recall@k as the field counts it: pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def positives_within(
    queries: np.ndarray, database: np.ndarray, radius_m: float
) -> list[np.ndarray]:
    """The database images within a distance of each query.

    Args:
        queries: [q, 2] positions in metres.
        database: [n, 2] positions in metres.
        radius_m: The largest distance of a positive, in metres, inclusive.

    Returns:
        For each query the ascending indices of its positives; perhaps none.
    """
    squared = radius_m**2
    return [np.flatnonzero(((database - query) ** 2).sum(1) <= squared) for query in queries]


def recall_at_k(
    predictions: np.ndarray, positives: Sequence[np.ndarray], ks: Sequence[int]
) -> dict[int, float]:
    """The share of queries with a positive among their first k predictions.

    Args:
        predictions: [q, m] database indices, nearest first; where m < k, all m are looked at.
        positives: For each query the indices of its positives. A query without any counts as
            missed, as in the official evaluation.
        ks: The values of k.

    Returns:
        k → percent of all queries.
    """
    if len(predictions) != len(positives) or not len(positives):
        raise ValueError(f"{len(predictions)} rows of predictions, {len(positives)} queries")
    hits = np.stack(
        [np.isin(row, found) for row, found in zip(predictions, positives, strict=True)]
    )
    return {k: 100 * float(hits[:, :k].any(1).mean()) for k in ks}
