"""What a query should have found: the nearest of its true positives, and how far down it is."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mixvpr_jax.evaluation.recall import hits_by_rank
from mixvpr_jax.evaluation.result import BestPositives
from mixvpr_jax.evaluation.search import nearest, rounding_of_scores, squared_distances

QUERIES_AT_ONCE = 256
ROWS_AT_ONCE = 16384


def best_positives(
    queries: np.ndarray,
    database: np.ndarray,
    positives: Sequence[np.ndarray],
    predictions: np.ndarray,
    distances: np.ndarray,
    left_out: Sequence[np.ndarray] = (),
) -> BestPositives:
    """The nearest true positive of each query.

    Where a prediction is right, the first of them is it. The other queries are compared with the
    whole database, in float64 where float32 leaves a doubt.

    Args:
        queries: [q, d].
        database: [n, d].
        positives: For each query the indices of its positives, perhaps none.
        predictions: [q, m] database indices, nearest first, of equal ones the lower index first.
        distances: [q, m], L2.
        left_out: For each query the database indices that do not count for its rank; () for none.
            They are no positives, and no predictions.
    """
    right = hits_by_rank(predictions, positives)
    first = right.argmax(1)
    rows = np.arange(len(queries))
    found = BestPositives(
        np.where(right.any(1), predictions[rows, first], -1).astype(np.int32),
        np.where(right.any(1), distances[rows, first], np.inf).astype(np.float32),
        np.where(right.any(1), first + 1, 0).astype(np.int32),
    )
    lost = np.flatnonzero(~right.any(1) & np.array([len(some) > 0 for some in positives]))
    for start in range(0, len(lost), QUERIES_AT_ONCE):
        some = lost[start : start + QUERIES_AT_ONCE]
        best = [nearest(queries[row], database, np.sort(positives[row]), 1) for row in some]
        indices, squared = (np.concatenate(part) for part in zip(*best, strict=True))
        found.indices[some], found.distances[some] = indices, np.sqrt(squared)
        found.ranks[some] = 1 + _count_nearer(queries[some], database, indices, squared)
        if len(left_out):
            found.ranks[some] -= [
                _are_nearer(queries[row], database[left_out[row]], left_out[row], *one).sum()
                for row, *one in zip(some, indices, squared, strict=True)
            ]
    return found


def _are_nearer(
    query: np.ndarray, rows: np.ndarray, indices: np.ndarray, index: np.integer, squared: float
) -> np.ndarray:
    """Which rows, of those indices, come before the row `index` at that squared distance."""
    found = squared_distances(query, rows)
    return (found < squared) | ((found == squared) & (indices < index))


def _count_nearer(
    queries: np.ndarray, database: np.ndarray, indices: np.ndarray, squared: np.ndarray
) -> np.ndarray:
    """How many descriptors come before each query's row `indices` at that squared distance."""
    lengths = (queries.astype(np.float64) ** 2).sum(1)
    targets = lengths - squared  # as scores: 2 qd - |d|²
    counts = np.zeros(len(queries), np.int32)
    placed = jnp.asarray(queries, jnp.float32)
    for start in range(0, len(database), ROWS_AT_ONCE):
        chunk = database[start : start + ROWS_AT_ONCE].astype(np.float32)
        scores = np.asarray(_scores(placed, jnp.asarray(chunk)))
        slack = rounding_of_scores(queries, float(np.vecdot(chunk, chunk).max()))
        counts += (scores > (targets + slack)[:, None]).sum(1, dtype=np.int32)
        doubtful = np.abs(scores - targets[:, None]) <= slack[:, None]
        for row in np.flatnonzero(doubtful.any(1)).tolist():
            columns = np.flatnonzero(doubtful[row])
            best = indices[row], squared[row]
            counts[row] += _are_nearer(queries[row], chunk[columns], start + columns, *best).sum()
    return counts


@jax.jit
def _scores(queries: Float[Array, "q d"], rows: Float[Array, "n d"]) -> Float[Array, "q n"]:
    products = jnp.matmul(queries, rows.T, precision=lax.Precision.HIGHEST)
    return 2 * products - jnp.sum(rows**2, axis=1)[None]
