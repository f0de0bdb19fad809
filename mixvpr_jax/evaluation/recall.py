"""Recall@k as the field counts it: pure NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binom


def hits_by_rank(predictions: np.ndarray, positives: Sequence[np.ndarray]) -> np.ndarray:
    """Which predictions are right.

    Args:
        predictions: [q, m] database indices, nearest first.
        positives: For each query the indices of its positives, perhaps none.

    Returns:
        [q, m] bool.
    """
    if len(predictions) != len(positives) or not len(positives):
        raise ValueError(f"{len(predictions)} rows of predictions, {len(positives)} queries")
    pairs = zip(predictions, positives, strict=True)
    return np.stack([np.isin(row, found) for row, found in pairs])


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
    return recall_of(hits_by_rank(predictions, positives), ks)


def recall_of(hits: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """The same of `hits_by_rank`."""
    return {k: 100 * float(hits[:, :k].any(1).mean()) for k in ks}


def recall_intervals(
    recall: Mapping[int, float], num_queries: int, level: float = 0.95
) -> dict[int, tuple[float, float]]:
    """Bootstrap intervals of recall over queries (Efron's percentile interval).

    A resample of q queries, each found or not, counts a binomial number of them as found: so the
    bootstrap's distribution is known, and nothing needs to be drawn.

    Args:
        recall: k → percent.
        num_queries: How many queries it was measured on.
        level: The share of resamples inside.

    Returns:
        k → lower and upper percent.
    """
    tail = (1 - level) / 2
    intervals = {}
    for k, percent in recall.items():
        of_one = min(percent / 100, 1.0)
        low, high = binom.ppf((tail, 1 - tail), num_queries, of_one) / num_queries
        intervals[k] = 100 * float(low), 100 * float(high)
    return intervals


def recall_by_condition(
    hits: np.ndarray, conditions: Mapping[str, Sequence[str]], ks: Sequence[int]
) -> dict[str, dict[str, tuple[int, dict[int, float]]]]:
    """Recall among the queries of each label.

    Args:
        hits: [q, m] bool, from `hits_by_rank`.
        conditions: A condition, such as "light" → a label a query.
        ks: The values of k.

    Returns:
        Condition → label, in sorted order → the number of its queries, and k → percent of them.
    """
    found: dict[str, dict[str, tuple[int, dict[int, float]]]] = {}
    for condition, labels in conditions.items():
        of = np.asarray(labels)
        groups = {label: hits[of == label] for label in sorted(set(labels))}
        found[condition] = {label: (len(own), recall_of(own, ks)) for label, own in groups.items()}
    return found
