"""The authors' ground truth: where it lies, and what it says.

- `{NAME}_dbImages.npy` and `{NAME}_qImages.npy` hold relative paths, `{NAME}_gt.npy` an array of
  arrays: for each query the indices of its positives.
- `{NAME}.mat` holds NetVLAD's `dbStruct`: relative paths and positions in metres.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.datasets.mat_files import read_variable
from mixvpr_jax.datasets.object_arrays import read_array
from mixvpr_jax.datasets.positions import positives_within, require_metres
from mixvpr_jax.datasets.protocols import Protocol
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import locate, names_in
from mixvpr_jax.storage import AnyPath, resolved


@dataclass(frozen=True)
class Place:
    """Where to look for a benchmark. No image is opened.

    Attributes:
        protocol: Which.
        folder: The dataset's own folder, or one that holds it.
        ground_truth: Where the authors' files lie if not there, or one of them.
        names: What the dataset's folder is usually called; case is ignored.
    """

    protocol: Protocol
    folder: AnyPath
    ground_truth: AnyPath | None
    names: tuple[str, ...]

    @property
    def title(self) -> str:
        """How an error line begins."""
        return f"{self.folder}: {self.protocol.name}"

    def roots(self) -> list[AnyPath]:
        """The folders that may be the dataset's own, likeliest first."""
        near = [self.folder, *subfolders(self.folder, self.names)]
        return [*near, *(raw for root in near for raw in subfolders(root, ("raw_data", "raw")))]

    def truth(self, *files: str) -> AnyPath | None:
        """The first of these ground-truth files that is found: the given one, or as they come."""
        folders = list(self._truth_folders())
        if self.ground_truth is not None:
            given = self.ground_truth.name.lower()
            files = tuple(sorted(files, key=lambda file: file.lower() != given))
        found = (_file_in(folder, file) for file in files for folder in folders)
        return next(filter(None, found), None)

    def _truth_folders(self) -> Iterator[AnyPath]:
        given = self.ground_truth
        if given is not None and given.is_file():
            given = given.parent
        for root in self.roots() if given is None else [given]:
            yield root
            for below in subfolders(root, ("datasets", *self.names)):
                yield below
                yield from subfolders(below, self.names)

    def pair(
        self, split: str, database: str = "database", queries: str = "queries"
    ) -> tuple[AnyPath, AnyPath] | None:
        """Folders of these names, as VPR-datasets-downloader (or SF-XL) lays them out."""
        for root in self.roots():
            *_, above, name = ("", *resolved(root).parts)
            of_split = above in ("images", "processed") and name in ("train", "val", "test")
            here = [] if of_split and name != split else ["."]
            for within in (f"images/{split}", f"processed/{split}", split, *here):
                pair = root / within / database, root / within / queries
                if pair[0].is_dir() and pair[1].is_dir():
                    return pair
        return None

    def nothing(self, *expected: str) -> InputError:
        """The line for a folder that holds none of the layouts."""
        found = "neither" if len(expected) > 1 else "none"
        return InputError(f"{self.title}: expected {'; or '.join(expected)}; found {found}")


def subfolders(folder: AnyPath, names: Sequence[str]) -> list[AnyPath]:
    """The folders in a folder that have one of these names, in any case, by rank."""
    ranked = [name.lower() for name in names]
    found = [folder / name for name in names_in(folder, "directory") if name.lower() in ranked]
    return sorted(found, key=lambda path: (ranked.index(path.name.lower()), path.name))


def _file_in(folder: AnyPath, name: str) -> AnyPath | None:
    if (folder / name).is_file():
        return folder / name
    found = [other for other in names_in(folder, "file") if other.lower() == name.lower()]
    return folder / min(found) if found else None


Folders = Sequence[Sequence[AnyPath]]
"""Where the database images may lie, and the queries, likeliest first."""


def find_listed(
    protocol: Protocol,
    files: tuple[AnyPath, AnyPath],
    names: Sequence[Sequence[str]],
    positives: Sequence[np.ndarray],
    folders: Folders,
) -> EvaluationSet:
    """The images of lists by relative names; `files` are that of the database and the positives'.

    Positives of another file than the protocol's are told as such.
    """
    source, truth = files
    if not protocol.ground_truth.startswith(truth.name):
        said = f"{truth.name}, a list"
        protocol = replace(protocol, ground_truth=said, positives="as listed for each query")
    layout = f"lists: {source}, {truth.name} and what lies beside them"
    located = (locate(at, of, source) for at, of in zip(folders, names, strict=True))
    return EvaluationSet.of(protocol, layout, *located, positives=positives)


def read_lists(place: Place, folders: Folders, *stems: str) -> EvaluationSet | None:
    """Reads `{stem}_dbImages.npy` and the two beside it, whichever stem is found first."""
    for stem in stems:
        truths = f"{stem}_gt.npy", f"{stem}_gt_25m.npy"
        images = f"{stem}_dbImages.npy", f"{stem}_qImages.npy"
        truth = place.truth(*truths)
        first = truth or place.truth(*images)
        if first is None:
            continue
        truth = truth or first.with_name(truths[0])
        files = [truth, *(first.with_name(name) for name in images)]
        for file in files:
            if not file.is_file():
                other = f" (or {truths[1]})" if file is truth else ""
                raise InputError(
                    f"{file}{other}: expected it beside {first.name}, found no such file"
                )
        names = database, queries = [read_names(file) for file in files[1:]]
        positives = read_positives(truth, len(queries), len(database))
        return find_listed(place.protocol, (files[1], truth), names, positives, folders)
    return None


def read_names(file: AnyPath) -> list[str]:
    """A list of paths, each of them once."""
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
    """A list of whole numbers below a limit, as int64."""
    array = read_array(file)
    if array.ndim != 1:
        raise InputError(f"{file}: expected a list of whole numbers, found {_kind(array)}")
    indices = _indices(file, array, limit, of)
    _require_room(file, [array], limit, of)
    return indices


def read_positives(file: AnyPath, num_queries: int, num_database: int) -> list[np.ndarray]:
    """For each query the ascending indices of its positives, perhaps none."""
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
    _require_room(file, entries, num_database, "the database")
    return [done[id(entry)] for entry in entries]


def _require_room(file: AnyPath, entries: Sequence[Any], limit: int, of: str) -> None:
    """Refuses indices whose widest type is too small; MATLAB gives each array its smallest."""
    dtypes = {entry.dtype for entry in entries if hasattr(entry, "dtype") and entry.size}
    largest = [np.iinfo(dtype).max for dtype in dtypes if dtype.kind in "iu"]
    largest += [2 ** (np.finfo(dtype).nmant + 1) for dtype in dtypes if dtype.kind == "f"]
    if largest and max(largest) < limit - 1:
        raise InputError(
            f"{file}: {of} has {limit:,} images, expected indices as int64, found types that "
            f"wrap or round those above {max(largest):,}"
        )


def _indices(file: AnyPath, entry: object, limit: int, of: str) -> np.ndarray:
    try:
        values = np.asarray(entry).ravel()
        values = np.array(values.tolist()) if values.dtype == object else values
    except ValueError:  # lists of different lengths within
        values = np.array(["?"])
    if values.size == 0:
        return np.empty(0, np.int64)
    most = np.float64(2**53)  # in float16 it would be infinite
    if values.dtype.kind == "f" and (np.abs(values) < most).all() and not (values % 1).any():
        values = values.astype(np.int64)  # MATLAB's numbers are floats
    if values.dtype.kind not in "iu":
        raise InputError(f"{file}: expected whole numbers, found {_shown(entry)}")
    outside = values[(values < 0) | (values >= limit)]
    is_mask = values.size == limit > 2 and values.max() < 2
    if outside.size or is_mask:
        found = "a 0 or 1 for each; give np.flatnonzero of them" if is_mask else outside[0]
        raise InputError(
            f"{file}: {of} has {limit:,} images, expected indices below that, found {found}"
        )
    return values.astype(np.int64)


def _kind(array: np.ndarray) -> str:
    return f"shape {array.shape} of {array.dtype}"


def _shown(value: object) -> str:
    """A value in one short line."""
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return " x ".join(f"{size:,}" for size in value.shape)
    return " ".join(reprlib.repr(value).split())[:80]


# NetVLAD's dbStruct -------------------------------------------------------------------------------


def read_struct(file: AnyPath, protocol: Protocol, folders: Folders) -> EvaluationSet:
    """Reads `dbStruct`, whose lists must be as long as it says."""
    struct = _struct_in(file)

    def field(expected: str, read: Callable[[Any], Any], *names: str) -> Any:
        name = next((name for name in names if name in struct), None)
        if name is None or (value := read(struct[name])) is None:
            found = ", ".join(struct) if name is None else _shown(struct[name])
            raise InputError(f"{file}: expected {expected} in dbStruct.{names[0]}, found {found}")
        return value

    def numbers(name: str, expected: str, *shape: int) -> np.ndarray:
        return field(expected, lambda value: _numbers(value, shape), name)

    images = ("dbImageFns", "dbImage"), ("qImageFns", "qImage")
    database, queries = (field("names", _names, *names) for names in images)
    counts = [numbers(name, "a number").item() for name in ("numImages", "numQueries")]
    if counts != [len(database), len(queries)]:
        raise InputError(
            f"{file}: expected lists of {counts[0]:,.0f} and {counts[1]:,.0f} images, as "
            f"numImages and numQueries say, found {len(database):,} and {len(queries):,}"
        )
    database_utm, queries_utm = (
        numbers(name, f"2 x {len(of):,} metres", 2, len(of)).T
        for name, of in (("utmDb", database), ("utmQ", queries))
    )
    require_metres(file, database_utm, queries_utm)
    radius_m = numbers("posDistThr", "a number").item()
    if radius_m != protocol.radius_m:
        raise InputError(
            f"{file}: expected posDistThr {protocol.radius_m:g} for {protocol.name}, found "
            f"{radius_m:g}"
        )
    return EvaluationSet.of(
        protocol,
        f"the authors': {file}",
        locate(folders[0], database, file),
        locate(folders[1], queries, file),
        positives=positives_within(queries_utm, database_utm, radius_m),
        database_utm=database_utm,
        queries_utm=queries_utm,
    )


def _struct_in(file: AnyPath) -> dict[str, Any]:
    try:
        struct = read_variable(file.read_bytes(), "dbStruct")
    except NotImplementedError:
        raise InputError(
            f"{file}: expected a MATLAB file of version 5 to 7, found 7.3 (HDF5); save it in "
            "MATLAB with -v7"
        ) from None
    except ValueError as error:
        raise InputError(f"{file}: expected a MATLAB file, found {error}") from None
    if not isinstance(struct, dict):
        raise InputError(f"{file}: expected a struct named dbStruct, found none")
    return struct


def _names(value: Any) -> list[str] | None:
    """A list of names, a single one, or MATLAB's empty matrix; None for anything else."""
    if isinstance(value, np.ndarray) and not value.size:
        return []
    names: list[Any] = value if isinstance(value, list) else [value]
    return names if all(isinstance(name, str) for name in names) else None


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Numbers of that shape, else None; of none or a single one the shape varies."""
    fits = isinstance(value, np.ndarray) and value.size == math.prod(shape)
    fits = fits and (value.size < 2 or value.shape == shape)
    return value.reshape(shape).astype(np.float64) if fits else None
