"""Recall@k as the field counts it: pure NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binomtest


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
    """Wilson's score interval of each recall (Wilson, 1927).

    Queries are found or not, like draws of a binomial distribution. Unlike a bootstrap's, the
    interval has a width where all of them are found, or none.

    Args:
        recall: k → percent.
        num_queries: How many queries it was measured on.
        level: The confidence.

    Returns:
        k → lower and upper percent.
    """
    intervals = {}
    for k, percent in recall.items():
        found = round(percent / 100 * num_queries)
        both = binomtest(found, num_queries).proportion_ci(level, method="wilson")
        # Rounding could put an end on the wrong side of what was measured.
        intervals[k] = min(100 * float(both.low), percent), max(100 * float(both.high), percent)
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
