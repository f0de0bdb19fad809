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
        nearest = [_nearest(queries[row], database, positives[row]) for row in some]
        found.indices[some] = [index for index, _ in nearest]
        found.distances[some] = [squared**0.5 for _, squared in nearest]
        found.ranks[some] = 1 + _count_nearer(queries[some], database, nearest)
        if len(left_out):
            found.ranks[some] -= [
                _count_nearer_of(queries[row], database, left_out[row], best)
                for row, best in zip(some.tolist(), nearest, strict=True)
            ]
    return found


def _count_nearer_of(
    query: np.ndarray, database: np.ndarray, indices: np.ndarray, nearest: tuple[int, float]
) -> int:
    """How many of some descriptors are nearer to a query than one of them all."""
    index, best = nearest
    squared = _squared_distances(query, database[indices])
    return int(((squared < best) | ((squared == best) & (indices < index))).sum())


def _nearest(query: np.ndarray, database: np.ndarray, indices: np.ndarray) -> tuple[int, float]:
    """The nearest of some descriptors, and its squared distance."""
    indices = np.sort(indices)
    squared = _squared_distances(query, database[indices])
    best = int(squared.argmin())
    return int(indices[best]), float(squared[best])


def _count_nearer(
    queries: np.ndarray, database: np.ndarray, nearest: Sequence[tuple[int, float]]
) -> np.ndarray:
    """How many descriptors are nearer to each query than one of them, whose distance is given."""
    exact = queries.astype(np.float64)
    squared = np.array([squared for _, squared in nearest])
    targets = (exact**2).sum(1) - squared  # as scores: 2 qd - |d|²
    counts = np.zeros(len(queries), np.int32)
    placed = jnp.asarray(queries, jnp.float32)
    for start in range(0, len(database), ROWS_AT_ONCE):
        chunk = database[start : start + ROWS_AT_ONCE].astype(np.float32)
        scores = np.asarray(_scores(placed, jnp.asarray(chunk)))
        # d + 2 roundings of at most half a unit in the last place of |d|² + 2 |q| |d|.
        largest = float((chunk.astype(np.float64) ** 2).sum(1).max())
        lengths = np.linalg.norm(exact, axis=1)
        slack = (exact.shape[1] + 2) * 2.0**-24 * (largest + 2 * lengths * largest**0.5)
        counts += (scores > (targets + slack)[:, None]).sum(1, dtype=np.int32)
        doubtful = np.abs(scores - targets[:, None]) <= slack[:, None]
        for row in np.flatnonzero(doubtful.any(1)).tolist():
            columns = np.flatnonzero(doubtful[row])
            found = _squared_distances(queries[row], chunk[columns])
            index, best = nearest[row]
            counts[row] += ((found < best) | ((found == best) & (start + columns < index))).sum()
    return counts


@jax.jit
def _scores(queries: Float[Array, "q d"], rows: Float[Array, "n d"]) -> Float[Array, "q n"]:
    products = jnp.matmul(queries, rows.T, precision=lax.Precision.HIGHEST)
    return 2 * products - jnp.sum(rows**2, axis=1)[None]


def _squared_distances(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return ((rows.astype(np.float64) - query.astype(np.float64)) ** 2).sum(1)
