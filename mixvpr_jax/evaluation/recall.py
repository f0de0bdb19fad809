"""What counts as found: own photos left out, recall@k, the best positives."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.datasets.names import frames_near
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.search import nearest, rounding_of_scores, squared_distances
from mixvpr_jax.storage import AnyPath

QUERIES_AT_ONCE = 256
ROWS_AT_ONCE = 4096

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recalls:
    """Recall where there is ground truth.

    Attributes:
        at: k → percent of all queries.
        intervals: k → its 95 % interval (Wilson's) over queries, in percent.
        by_condition: As `recall_by_condition` gives it.
        right: [q, m] bool, which predictions are right.
    """

    at: Mapping[int, float]
    intervals: Mapping[int, tuple[float, float]]
    by_condition: Mapping[str, Mapping[str, Mapping[str, Any]]]
    right: np.ndarray


@dataclass(frozen=True)
class BestPositives:
    """The nearest of its true positives for each of q queries.

    Attributes:
        indices: [q] int32, database indices; -1 where a query has no positive.
        distances: [q] float32, L2 between descriptors.
        ranks: [q] int32, 1 for the nearest of all the database; 0 without a positive.
    """

    indices: np.ndarray
    distances: np.ndarray
    ranks: np.ndarray


def hits_by_rank(predictions: np.ndarray, positives: Sequence[np.ndarray]) -> np.ndarray:
    """Which predictions [q, m] are right, by each query's positives (perhaps none): [q, m] bool."""
    if len(predictions) != len(positives) or not len(positives):
        raise ValueError(f"{len(predictions)} rows of predictions, {len(positives)} queries")
    return np.stack([np.isin(*pair) for pair in zip(predictions, positives, strict=True)])


def recall_of(hits: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """The percentage of queries with a hit among their first k predictions, or all m, for each k.

    A query without positives counts as missed, as in the official evaluation.
    """
    return {k: 100 * float(hits[:, :k].any(1).mean()) for k in ks}


def recall_intervals(
    recall: Mapping[int, float], num_queries: int, level: float = 0.95
) -> dict[int, tuple[float, float]]:
    """Wilson's score interval of each recall (Wilson, 1927): k → lower and upper percent.

    Queries are found or not, like draws of a binomial distribution. Unlike a bootstrap's, the
    interval has a width where all of them are found, or none.
    """
    from scipy.stats import binomtest  # loads for 0.4 s, and training needs none

    intervals = {}
    for k, percent in recall.items():
        found = round(percent / 100 * num_queries)
        both = binomtest(found, num_queries).proportion_ci(level, method="wilson")
        # Rounding could put an end on the wrong side of what was measured.
        intervals[k] = min(100 * float(both.low), percent), max(100 * float(both.high), percent)
    return intervals


def recall_by_condition(
    hits: np.ndarray, conditions: Mapping[str, Sequence[str]], ks: Sequence[int]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Condition → label, in sorted order → its `num_queries`, and `recall`, k → percent of them."""
    found = {}
    for condition, labels in conditions.items():
        groups = {label: hits[np.asarray(labels) == label] for label in sorted(set(labels))}
        found[condition] = {
            label: {"num_queries": len(own), "recall": recall_of(own, ks)}
            for label, own in groups.items()
        }
    return found


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
        queries: [q, d] descriptors.
        database: [n, d].
        positives: For each query the indices of its positives, perhaps none.
        predictions: [q, m] database indices, nearest first, of equal ones the lower index first.
        distances: [q, m], L2.
        left_out: For each query the database indices that do not count for its rank; () for none.
            They are no positives, and no predictions.
    """
    right = hits_by_rank(predictions, positives)
    first, rows = right.argmax(1), np.arange(len(queries))
    found = BestPositives(
        np.where(right.any(1), predictions[rows, first], -1).astype(np.int32),
        np.where(right.any(1), distances[rows, first], np.inf).astype(np.float32),
        np.where(right.any(1), first + 1, 0).astype(np.int32),
    )
    lost = np.flatnonzero(~right.any(1) & np.array([len(some) > 0 for some in positives]))
    for start in range(0, len(lost), QUERIES_AT_ONCE):
        some = lost[start : start + QUERIES_AT_ONCE]
        best = [
            nearest(queries[row : row + 1], database, np.sort(positives[row])[None], 1)
            for row in some
        ]
        indices, squared = (np.concatenate(part)[:, 0] for part in zip(*best, strict=True))
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
    targets = (queries.astype(np.float64) ** 2).sum(1) - squared  # as scores: 2 qd - |d|²
    counts = np.zeros(len(queries), np.int32)
    for start in range(0, len(database), ROWS_AT_ONCE):
        chunk = database[start : start + ROWS_AT_ONCE].astype(np.float32, copy=False)
        scores = np.asarray(_scores(*jax.device_put((queries.astype(np.float32), chunk))))
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


def leave_out_own_photos(data: EvaluationSet, frames: int | None = None) -> EvaluationSet:
    """Leaves each query that is a file of the database out of its neighbours and positives.

    It would find itself, at a distance of 0. A file is the same under all its names: links count,
    copies do not. So many frames before and after it are left out as well: those of its folder, in
    the order of their names, in which numbers count by value.
    """
    own = own_photos(map(identity, data.queries), map(identity, data.database))
    if not any(own):
        if frames is not None:
            raise InputError(
                "exclude_neighbours: expected queries that are files of the database, found none; "
                "drop this option"
            )
        return data
    if frames:
        own = with_near(own, frames_near(data.database, frames))
    elif max(map(len, own)) == len(data.database):
        logger.warning("the database holds one photo, a query: it finds itself, and nothing else")
        return data
    left_out = [np.array(some, np.int64) for some in own]
    known = data.positives
    positives = None if known is None else list(map(np.setdiff1d, known, left_out))
    data = replace(data, positives=positives, left_out=left_out)
    num_candidates(data)
    return data


def own_photos(queries: Iterable[object], database: Iterable[object]) -> list[list[int]]:
    """For each query the indices of the same photo in the database, by equal keys."""
    places = defaultdict[object, list[int]](list)
    for index, photo in enumerate(database):
        places[photo].append(index)
    return [places.get(query, []) for query in queries]


def with_near(
    own: Sequence[Sequence[int]], near: Sequence[Sequence[int] | np.ndarray]
) -> list[list[int]]:
    """Each query's own photos and those near them; `near` lists them for each database photo."""
    return [sorted({int(other) for index in some for other in near[index]}) for some in own]


def num_candidates(data: EvaluationSet) -> int:
    """How many database images every query can find; raises InputError if it is none."""
    most = max(map(len, data.left_out), default=0)
    if most >= len(data.database):
        raise InputError(
            f"database: expected photos besides the query and the frames left out with it, found "
            f"{len(data.database):,} in all, {most:,} of them left out"
        )
    return len(data.database) - most


def without_left_out(
    found: tuple[np.ndarray, np.ndarray], left_out: Sequence[np.ndarray], most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest that count, at most so many, fewer where some query has fewer.

    Found are indices [q, c], nearest first, -1 where an index found no more, and distances; left
    out for each query database indices, () for none.
    """
    indices, distances = found
    counts = indices >= 0
    for row, some in enumerate(left_out):
        counts[row] &= ~np.isin(indices[row], some)
    count = min(most, int(counts.sum(1).min()))
    order = np.argsort(~counts, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)


def identity(path: AnyPath) -> object:
    """The same for all names of one file."""
    if isinstance(path, Path):
        try:
            status = path.stat()
            return status.st_dev, status.st_ino
        except OSError:  # which is told when it is read
            return path.absolute()
    return path
