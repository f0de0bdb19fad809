"""Pittsburgh 30k and 250k, and Tokyo 24/7: described alike, by NetVLAD's authors."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace

from mixvpr_jax.data.benchmarks.db_struct import read_struct
from mixvpr_jax.data.benchmarks.images import Found
from mixvpr_jax.data.benchmarks.labelled import read_labelled
from mixvpr_jax.data.benchmarks.lists import read_lists
from mixvpr_jax.data.benchmarks.places import Place
from mixvpr_jax.stores import AnyPath

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
