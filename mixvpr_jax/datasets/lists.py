"""Lists of images and of their positives in .npy files, as the authors ship them.

`{NAME}_dbImages.npy` and `{NAME}_qImages.npy` hold relative paths, `{NAME}_gt.npy` an array of
arrays: for each query the indices of its positives.
"""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet, Found
from mixvpr_jax.datasets.object_arrays import read_array
from mixvpr_jax.datasets.places import Place
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import locate
from mixvpr_jax.storage import AnyPath


@dataclass(frozen=True)
class Lists:
    """What the files say: n database images, q queries.

    Attributes:
        file: The list of database images; the others lie beside it.
        truth: The file with the positives.
        database: n relative paths.
        queries: q relative paths.
        positives: For each query ascending indices into the database.
    """

    file: AnyPath
    truth: AnyPath
    database: list[str]
    queries: list[str]
    positives: list[np.ndarray]

    def find(
        self,
        place: Place,
        database_bases: Sequence[AnyPath],
        query_bases: Sequence[AnyPath] | None = None,
    ) -> Found:
        """The benchmark, its images looked for below these folders."""
        database = locate(database_bases, self.database, self.file)
        queries = locate(query_bases or database_bases, self.queries, self.file)
        protocol, truth = place.protocol, self.truth.name
        if not protocol.ground_truth.startswith(truth):
            protocol = replace(
                protocol, ground_truth=f"{truth}, a list", positives="as listed for each query"
            )
        layout = f"lists: {self.file}, {truth} and what lies beside them"
        whole = EvaluationSet(protocol, layout, database.paths, queries.paths, self.positives)
        return Found(whole, database.present, queries.present)


def read_lists(place: Place, *stems: str) -> Lists | None:
    """Reads `{stem}_dbImages.npy` and the two beside it, whichever stem is found first.

    Raises:
        InputError: One of the three is missing or broken, they differ in length, or an index
            lies outside of the database.
    """
    for stem in stems:
        truths = f"{stem}_gt.npy", f"{stem}_gt_25m.npy"
        files = find_together(place, truths, f"{stem}_dbImages.npy", f"{stem}_qImages.npy")
        if files:
            truth, *images = files
            database, queries = map(read_names, images)
            positives = read_positives(truth, len(queries), len(database))
            return Lists(images[0], truth, database, queries, positives)
    return None


def find_together(place: Place, truths: tuple[str, ...], *others: str) -> list[AnyPath] | None:
    """The ground truth and the files beside it; None where there are none of them.

    Args:
        place: Where to look.
        truths: What the file with the positives may be called.
        others: The files that it needs.

    Raises:
        InputError: Some of them are there and some are not.
    """
    truth = place.truth(*truths)
    first = truth or place.truth(*others)
    if first is None:
        return None
    files = [truth or first.with_name(truths[0]), *(first.with_name(name) for name in others)]
    for file in files:
        if not file.is_file():
            other = f" (or {' or '.join(truths[1:])})" if file is files[0] and truths[1:] else ""
            raise InputError(f"{file}{other}: expected it beside {first.name}, found no such file")
    return files


def read_names(file: AnyPath) -> list[str]:
    """A list of paths.

    Raises:
        InputError: No one-dimensional array of text, or a name that is listed twice.
    """
    array = read_array(file)
    values = array.tolist() if array.ndim == 1 else [None]
    names = [os.fsdecode(value) for value in values if isinstance(value, str | bytes)]
    if len(names) != len(values):
        raise InputError(f"{file}: expected a list of file names, found {_kind(array)}")
    if len(set(names)) < len(names):
        twice, count = Counter(names).most_common(1)[0]
        raise InputError(f"{file}: expected each image once, found {twice[:200]!r} {count} times")
    return names


def read_indices(file: AnyPath, limit: int, of: str) -> np.ndarray:
    """A list of whole numbers below a limit, as int64.

    Raises:
        InputError: Anything else.
    """
    array = read_array(file)
    if array.ndim != 1:
        raise InputError(f"{file}: expected a list of whole numbers, found {_kind(array)}")
    return _indices(file, array, limit, of)


def read_positives(file: AnyPath, num_queries: int, num_database: int) -> list[np.ndarray]:
    """For each query the ascending indices of its positives, perhaps none.

    Raises:
        InputError: Not one entry a query, or an index that no database image has.
    """
    array = read_array(file)
    if array.ndim == 0 or len(array) != num_queries:
        found = len(array) if array.ndim else 1
        raise InputError(
            f"{file}: expected the positives of {num_queries:,} queries, found {found:,} entries"
        )
    entries, done = list(array), dict[int, np.ndarray]()
    for query, entry in enumerate(entries):
        if id(entry) not in done:  # a file may list one array a million times
            indices = _indices(file, entry, num_database, f"query {query}: the database")
            done[id(entry)] = np.unique(indices)
    return [done[id(entry)] for entry in entries]


def _indices(file: AnyPath, entry: object, limit: int, of: str) -> np.ndarray:
    try:
        values = np.asarray(entry).ravel()
        values = np.array(values.tolist()) if values.dtype == object else values
    except ValueError:  # lists of different lengths within
        values = np.array(["?"])
    if values.size == 0:
        return np.empty(0, np.int64)
    if values.dtype.kind not in "iu":
        shown = " ".join(reprlib.repr(entry).split())[:80]
        raise InputError(f"{file}: expected whole numbers, found {shown}")
    outside = values[(values < 0) | (values >= limit)]
    if outside.size:
        raise InputError(
            f"{file}: {of} has {limit:,} images, expected indices below that, found {outside[0]}"
        )
    return values.astype(np.int64)


def _kind(array: np.ndarray) -> str:
    return f"shape {array.shape} of {array.dtype}"
