"""Pittsburgh 30k and 250k, and Tokyo 24/7: described alike, by NetVLAD's authors."""

from __future__ import annotations

import csv
import io
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet, Found, Protocol
from mixvpr_jax.datasets.labelled import read_labelled
from mixvpr_jax.datasets.lists import read_lists
from mixvpr_jax.datasets.mat_files import read_variable
from mixvpr_jax.datasets.places import Place
from mixvpr_jax.datasets.positions import positives_within, require_metres
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import locate
from mixvpr_jax.storage import AnyPath

# Where the names of the lists may be relative to, below the dataset's folder.
_PITTSBURGH = (".", "images"), ("queries_real", "queries", "query")
_TOKYO = (
    (".", "database_gsv_vga", "tokyo247", "images", "database"),
    (
        "247query_subset_v2",
        "queries/247query_subset_v2",
        "query/247query_subset_v2",
        "tokyo247/247query_subset_v2",
        "queries",
        "query",
    ),
)
_TIMES = {"D": "day", "S": "sunset", "N": "night"}


def read_pittsburgh(place: Place) -> Found:
    """The split that the protocol's name says.

    Raises:
        InputError: Neither layout is there, or its ground truth is broken.
    """
    stem = place.protocol.name.replace("-", "_")
    return _read(place, stem, place.protocol.name.split("-")[1], *_PITTSBURGH)


def read_tokyo247(place: Place) -> Found:
    """Tokyo 24/7, whose struct says .jpg for files that are .png.

    Raises:
        InputError: Neither layout is there, or its ground truth is broken.
    """
    found = _read(place, "tokyo247", "test", *_TOKYO)
    times = _times(found.whole.queries)
    if times is None:
        return found
    return replace(found, whole=replace(found.whole, conditions={"light": times}))


def _read(
    place: Place, stem: str, split: str, databases: Sequence[str], queries: Sequence[str]
) -> Found:
    """The authors' layout, where images of it are there; else VPR-datasets-downloader's."""
    file, pair = place.truth(f"{stem}.mat"), place.pair(split)
    of_database = [root / base for root in place.roots() for base in databases]
    of_queries = [root / base for root in place.roots() for base in queries]
    found = None
    if file is not None:
        found = read_struct(file).find(place.protocol, of_database, of_queries)
    elif lists := read_lists(place, stem):
        found = lists.find(place, of_database, [*place.roots(), *of_queries])
    if found is not None and (pair is None or found.database_present.any()):
        return found
    if pair is not None:
        return read_labelled(place.protocol, pair)
    raise place.nothing(
        f"the authors' {stem}.mat, or {stem}_dbImages.npy, {stem}_qImages.npy and {stem}_gt.npy or "
        f"{stem}_gt_25m.npy, here, in datasets or in the folder given as ground truth",
        f"VPR-datasets-downloader's images/{split}/database and images/{split}/queries",
    )


def _times(queries: Sequence[AnyPath]) -> list[str] | None:
    """Day, sunset or night: the sixth field of the .csv beside each query, where it is there."""
    times = []
    for query in queries:
        try:
            table = query.with_suffix(".csv").read_bytes().decode()
            fields = next(csv.reader(io.StringIO(table, newline="")), [])
        except (OSError, UnicodeDecodeError, csv.Error):
            return None
        time = _TIMES.get(fields[5].strip().upper()) if len(fields) > 5 else None
        if time is None:
            return None
        times.append(time)
    return times


@dataclass(frozen=True)
class DbStruct:
    """The variable `dbStruct`: n database images, q queries.

    Attributes:
        file: Where it stands.
        database: n names, relative to the database's folder.
        queries: q names, relative to the queries' folder.
        database_utm: [n, 2] float64, metres.
        queries_utm: [q, 2] float64, metres.
        radius_m: The largest distance of a positive.
    """

    file: AnyPath
    database: list[str]
    queries: list[str]
    database_utm: np.ndarray
    queries_utm: np.ndarray
    radius_m: float

    def find(self, protocol: Protocol, database: list[AnyPath], queries: list[AnyPath]) -> Found:
        """The benchmark, its images looked for below these folders.

        Raises:
            InputError: A name leads outside, or the radius is not the protocol's.
        """
        if self.radius_m != protocol.radius_m:
            raise InputError(
                f"{self.file}: expected posDistThr {protocol.radius_m:g} for {protocol.name}, "
                f"found {self.radius_m:g}"
            )
        of_database = locate(database, self.database, self.file)
        of_queries = locate(queries, self.queries, self.file)
        whole = EvaluationSet(
            protocol,
            f"the authors': {self.file}",
            of_database.paths,
            of_queries.paths,
            positives_within(self.queries_utm, self.database_utm, self.radius_m),
            self.database_utm,
            self.queries_utm,
        )
        return Found(whole, of_database.present, of_queries.present)


def read_struct(file: AnyPath) -> DbStruct:
    """Reads `dbStruct`, whose lists must be as long as it says.

    Raises:
        InputError: No MATLAB file, without that struct or without a field, lists of different
            length, or positions that are not in metres.
    """
    struct = _load(file)
    database = _names(file, struct, "dbImageFns", "dbImage")
    queries = _names(file, struct, "qImageFns", "qImage")
    counts = _number(file, struct, "numImages"), _number(file, struct, "numQueries")
    if counts != (len(database), len(queries)):
        raise InputError(
            f"{file}: expected lists of {counts[0]:,.0f} and {counts[1]:,.0f} images, as "
            f"numImages and numQueries say, found {len(database):,} and {len(queries):,}"
        )
    database_utm = _positions(file, struct, "utmDb", len(database))
    queries_utm = _positions(file, struct, "utmQ", len(queries))
    require_metres(file, database_utm, queries_utm)
    radius_m = _number(file, struct, "posDistThr")
    return DbStruct(file, database, queries, database_utm, queries_utm, radius_m)


def _load(file: AnyPath) -> dict[str, Any]:
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


def _field(file: AnyPath, struct: dict[str, Any], *names: str) -> Any:
    name = next((name for name in names if name in struct), None)
    if name is None:
        found = ", ".join(struct)
        raise InputError(f"{file}: expected dbStruct.{names[0]}, found {found}")
    return struct[name]


def _names(file: AnyPath, struct: dict[str, Any], *fields: str) -> list[str]:
    found = _field(file, struct, *fields)
    if isinstance(found, np.ndarray) and found.size == 0:
        return []
    found = found if isinstance(found, list) else [found]
    names = [name for name in found if isinstance(name, str)]
    if len(names) < len(found):
        other = next(name for name in found if not isinstance(name, str))
        raise InputError(
            f"{file}: expected dbStruct.{fields[0]} to list names, found {_shown(other)}"
        )
    return names


def _shown(value: object) -> str:
    """A value in one short line."""
    return " ".join(reprlib.repr(value).split())[:80]


def _number(file: AnyPath, struct: dict[str, Any], field: str) -> float:
    value = _field(file, struct, field)
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise InputError(f"{file}: expected a number in dbStruct.{field}, found {_shown(value)}")
    return float(value.item())


def _positions(file: AnyPath, struct: dict[str, Any], field: str, count: int) -> np.ndarray:
    value = _field(file, struct, field)
    if not isinstance(value, np.ndarray):
        raise InputError(f"{file}: expected dbStruct.{field} in numbers, found {_shown(value)}")
    if count == 0 and value.size == 0:
        return np.empty((0, 2))
    if value.shape != (2, count):
        raise InputError(
            f"{file}: expected dbStruct.{field} of 2 x {count:,} metres, found "
            f"{' x '.join(f'{size:,}' for size in value.shape)}"
        )
    return value.T.astype(np.float64)
