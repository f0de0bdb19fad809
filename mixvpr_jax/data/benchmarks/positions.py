"""Positions in metres, and which images lie near one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import KDTree

from mixvpr_jax.data.folders import FARTHEST_M
from mixvpr_jax.errors import InputError

MAX_PAIRS = 10**8  # of a query and a positive: 800 MB of indices


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

    Raises:
        InputError: So many that no list of them has a use, as of positions that are all the same.
    """
    # The tree offers a little more than asked for, so that the rule itself, not the tree's
    # rounding, decides at exactly the radius.
    tree, radius = KDTree(database), radius_m * (1 + 1e-9)
    pairs = int(tree.query_ball_point(queries, radius, return_length=True).sum())
    if pairs > MAX_PAIRS:
        raise InputError(
            f"expected at most {MAX_PAIRS:,} pairs of a query and a database image within "
            f"{radius_m:g} m, found {pairs:,}"
        )
    found = []
    for query in queries:
        indices = tree.query_ball_point(query, radius, return_sorted=True)
        candidates = np.asarray(indices, np.int64)
        squared = ((database[candidates] - query) ** 2).sum(1)
        found.append(candidates[squared <= radius_m**2])
    return found


def positives_within_groups(
    queries: np.ndarray,
    database: np.ndarray,
    query_groups: Sequence[str],
    database_groups: Sequence[str],
    radius_m: float,
) -> list[np.ndarray]:
    """As `positives_within`, but for images of one group alone.

    Cities lie in zones of UTM of their own, whose metres do not compare.

    Args:
        queries: [q, 2] positions in metres.
        database: [n, 2] positions in metres.
        query_groups: A group's name for each query.
        database_groups: A group's name for each database image.
        radius_m: The largest distance of a positive, in metres, inclusive.
    """
    of_queries, of_database = np.asarray(query_groups), np.asarray(database_groups)
    positives = [np.empty(0, np.int64) for _ in queries]
    for group in np.unique(of_queries):
        here, there = np.flatnonzero(of_queries == group), np.flatnonzero(of_database == group)
        if len(there) == 0:
            continue
        within = positives_within(queries[here], database[there], radius_m)
        for query, indices in zip(here, within, strict=True):
            positives[query] = there[indices]
    return positives


def require_metres(source: object, *positions: np.ndarray) -> None:
    """Refuses positions that are no numbers, or that look like degrees.

    Args:
        source: Where they are from: the beginning of the error line.
        positions: Arrays [n, 2].

    Raises:
        InputError: A position is not finite; or all of them lie within ±180 and no two of them a
            metre apart, as latitudes and longitudes of a town do.
    """
    together = np.concatenate(positions)
    if not np.isfinite(together).all():
        raise InputError(f"{source}: expected positions in metres, found some that are not finite")
    if np.abs(together).max(initial=0) > FARTHEST_M:
        raise InputError(f"{source}: expected positions in metres, found some beyond the Earth")
    spread = np.ptp(together, axis=0).max(initial=0) if len(together) else 0
    if len(together) and np.abs(together).max() <= 180 and 0 < spread < 1:
        first = ", ".join(f"{value:g}" for value in together[0])
        raise InputError(
            f"{source}: expected UTM positions in metres, found what look like degrees of latitude "
            f"and longitude ({first}, all {len(together):,} within {spread:.2g}); convert them"
        )
