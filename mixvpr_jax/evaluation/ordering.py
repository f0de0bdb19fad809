"""The nearest of some candidates, put in the order that float64 arithmetic gives them."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from mixvpr_jax.errors import InputError

MOST_ROWS = 2**31 - 1  # whose indices are int32
VALUES_AT_ONCE = 2**18  # of differences, which should stay in a core's cache
ROWS_AT_ONCE = 8192  # of those that are looked at
SEGMENT = 64  # values that are summed before their sums are
TINY = 1e-30  # squared distances that underflow may spoil


class Candidates(NamedTuple):
    """Which rows of the database may be among a query's nearest.

    Attributes:
        owners: [p], the queries that they are candidates of.
        rows: [p], database indices.
        bounds: [p], what the score 2 qd - |d|² is at most.
    """

    owners: np.ndarray
    rows: np.ndarray
    bounds: np.ndarray


def require_finite(name: str, rows: np.ndarray, first: int = 0) -> None:
    """Refuses descriptors [n, d] that have no distances.

    Args:
        name: What they are, for the error.
        rows: The descriptors.
        first: The number of the first row, for the error.

    Raises:
        InputError: NaN or infinity, or values whose squares no float32 holds. It names the rows.
    """
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE].astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.vecdot(some, some)
        if not np.isfinite(lengths).all():
            broken = first + start + np.flatnonzero(~np.isfinite(lengths))
            listed = ", ".join(f"{row:,}" for row in broken[:5].tolist())
            more = f" and {len(broken) - 5:,} more" if len(broken) > 5 else ""
            raise InputError(
                f"{name}: expected finite descriptors, found NaN, infinity or values too large in "
                f"row {listed}{more}"
            )


def nearest_of_candidates(
    queries: np.ndarray, database: np.ndarray, candidates: Candidates, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each query's candidates.

    Distances are measured in float32, for the k with the largest bounds and then for those that
    may be nearer. Where float32 leaves the order open, they are measured in float64.

    Args:
        queries: [q, d] float32.
        database: [n, d].
        candidates: At least k for each query.
        k: How many.

    Returns:
        Indices [q, k] int32, nearest first, of two equally near ones (in float64) the lower index
        first; and their distances [q, k] float32.
    """
    owners, rows, squared = _measured(queries, database, candidates, k)
    order = np.lexsort((rows, squared, owners))
    owners, rows, squared = owners[order], rows[order], squared[order].astype(np.float64)
    starts = np.searchsorted(owners, np.arange(len(queries)))
    gaps = squared[1:] - squared[:-1]
    near = gaps <= 2 * _relative_error(queries.shape[1]) * squared[1:] + TINY
    near &= owners[1:] == owners[:-1]
    # Each run of candidates whose order is open is sorted for itself, if it begins among the k.
    runs = np.concatenate([[0], np.cumsum(~near)])
    open_ = runs <= runs[starts + k - 1][owners]
    open_ &= np.append(near, False) | np.insert(near, 0, False)
    squared[open_] = _squared_distances(queries, database, owners[open_], rows[open_], np.float64)
    order = np.lexsort((rows, squared, runs))
    chosen = order[starts[:, None] + np.arange(k)]
    return rows[chosen].astype(np.int32), np.sqrt(squared[chosen]).astype(np.float32)


def _measured(
    queries: np.ndarray, database: np.ndarray, candidates: Candidates, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Owners, rows and squared distances in float32 of the candidates that are near enough."""
    order = np.lexsort((-candidates.bounds, candidates.owners))
    owners, rows, bounds = (part[order] for part in candidates)
    starts = np.searchsorted(owners, np.arange(len(queries)))
    squared = np.full(len(owners), np.inf, np.float32)

    def measure(chosen: np.ndarray) -> None:
        pairs = owners[chosen], rows[chosen]
        squared[chosen] = _squared_distances(queries, database, *pairs, np.float32)

    first = (starts[:, None] + np.arange(k)).ravel()
    measure(first)
    farthest = squared[first].reshape(-1, k).max(1).astype(np.float64)
    limits = farthest * (1 + 2 * _relative_error(queries.shape[1])) + TINY
    lengths = np.vecdot(queries, queries, dtype=np.float64)
    maybe = lengths[owners] - bounds <= limits[owners]
    maybe[first] = False
    measure(np.flatnonzero(maybe))
    known = np.isfinite(squared)
    return owners[known], rows[known], squared[known]


def _relative_error(size: int) -> float:
    """How far rounding may move a squared distance in float32, relative to it.

    By a unit for each difference, square and sum, and there are as many sums after one another as
    a segment has values, and as there are segments. Nothing cancels.
    """
    segment = math.gcd(size, SEGMENT)
    return (segment + size // segment + 4) * 2.0**-24


def _squared_distances(
    queries: np.ndarray,
    database: np.ndarray,
    owners: np.ndarray,
    rows: np.ndarray,
    dtype: type[np.floating],
) -> np.ndarray:
    """The squared distance of each pair, [p] of that dtype."""
    squared = np.empty(len(owners), dtype)
    size = queries.shape[1]
    step = max(VALUES_AT_ONCE // size, 1)

    def measure(some: slice) -> None:
        differences = database[rows[some]].astype(dtype, copy=False)
        differences -= queries[owners[some]]
        segments = differences.reshape(len(differences), -1, math.gcd(size, SEGMENT))
        squared[some] = np.vecdot(segments, segments).sum(1)

    # NumPy works outside of Python's lock; a task for each piece would cost more than it does.
    def measure_all(pieces: range) -> None:
        for start in pieces:
            measure(slice(start, start + step))

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, len(owners), step)
        list(pool.map(measure_all, [starts[thread::threads] for thread in range(threads)]))
    return squared


def rounding_of_scores(queries: np.ndarray, largest_norm: float) -> np.ndarray:
    """How far rounding may move a query's scores 2 qd - |d|² in float32, [q].

    A sum of d products is off by at most d units in the last place of the sum of their absolute
    values, which is at most |q| |d|; by 8 sqrt(d) but with negligible probability, since roundings
    are about as often up as down (Higham and Mary, A new approach to probabilistic rounding error
    analysis, 2019).

    Args:
        queries: [q, d] float32.
        largest_norm: The largest squared norm in the database.
    """
    size = queries.shape[1]
    lengths = np.linalg.norm(queries, axis=1).astype(np.float64)
    units = min(size, 8 * size**0.5) + 8
    return units * 2.0**-24 * (largest_norm + 2 * lengths * largest_norm**0.5)
