"""Queries that are photos of the database: a sequence that is searched for in itself.

Each would find itself, at a distance of 0. So it is left out of its own neighbours, and on request
the frames before and after it, which were taken at nearly the same place.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath

COPY_DISTANCE = 1e-5  # what rounding may put between the descriptors of one photo

logger = logging.getLogger(__name__)


def leave_out_own_photos(data: EvaluationSet, frames: int | None = None) -> EvaluationSet:
    """Leaves each query that is a file of the database out of its neighbours and positives.

    A file is the same under all its names: links count, copies do not.

    Args:
        data: Database and queries.
        frames: How many frames before and after the query to leave out as well: those of its
            folder, in the order of their names, in which numbers count by value.

    Raises:
        InputError: Frames to leave out, and no query of the database, or none is left of it.
    """
    places: dict[object, list[int]] = {}
    for index, path in enumerate(data.database):
        places.setdefault(_identity(path), []).append(index)
    own = [np.array(places.get(_identity(path), ()), np.int64) for path in data.queries]
    if not any(map(len, own)):
        if frames is not None:
            raise InputError(
                "exclude_neighbours: expected queries that are files of the database, found none; "
                "leave it out"
            )
        return data
    if frames:
        beside = _frames_beside(data.database, frames)
        own = [
            np.unique(np.concatenate([some, *(beside[index] for index in some)])) for some in own
        ]
    elif max(map(len, own)) == len(data.database):
        logger.warning("the database holds one photo, a query: it finds itself, and nothing else")
        return data
    positives = data.positives
    if positives is not None:
        pairs = zip(positives, own, strict=True)
        positives = [np.setdiff1d(found, some) for found, some in pairs]
    data = replace(data, positives=positives, left_out=own)
    num_candidates(data)
    return data


def tell_copies(distances: np.ndarray) -> None:
    """Warns of queries whose nearest photo is a copy of them, which recall counts as found.

    Args:
        distances: [q, m] L2 distances of descriptors, nearest first.
    """
    if copies := int((distances[:, 0] < COPY_DISTANCE).sum()):
        logger.warning(
            "note: %d of %d queries have a database photo at distance 0, as copies of one photo "
            "do; recall counts them as found",
            *(copies, len(distances)),
        )


def num_candidates(data: EvaluationSet) -> int:
    """How many database images every query can find, whatever is left out for it.

    Raises:
        InputError: None.
    """
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
    """The nearest that count.

    Args:
        found: Indices [q, c], nearest first, -1 where an index found no more; and distances.
        left_out: For each query the database indices that do not count; () for none.
        most: How many to keep of each query.

    Returns:
        Both as [q, m]; m is at most `most`, less where some query has fewer.
    """
    indices, distances = found
    counts = indices >= 0
    for row, some in enumerate(left_out):
        if len(some):
            counts[row] &= ~np.isin(indices[row], some)
    count = min(most, int(counts.sum(1).min()))
    order = np.argsort(~counts, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)


def _identity(path: AnyPath) -> object:
    """The same for all names of one file."""
    if isinstance(path, Path):
        try:
            status = path.stat()
            return status.st_dev, status.st_ino
        except OSError:  # which is told when it is read
            return path.absolute()
    return path


def _frames_beside(paths: Sequence[AnyPath], frames: int) -> list[np.ndarray]:
    """For each image the indices of those at most so many places away in its folder."""
    folders: dict[AnyPath, list[int]] = {}
    for index, path in enumerate(paths):
        folders.setdefault(path.parent, []).append(index)
    beside = [np.zeros(0, np.int64)] * len(paths)
    for members in folders.values():
        members.sort(key=lambda index: _by_value(paths[index].name))
        for place, index in enumerate(members):
            beside[index] = np.array(members[max(place - frames, 0) : place + frames + 1])
    return beside


def _by_value(name: str) -> list[object]:
    """What names sort by: frame2 comes before frame10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]
