"""Mapillary Street-Level Sequences, which three protocols are made of.

- msls-val: the official 740 queries, by the authors' lists.
- msls-val-all: every query of the same two cities, whose recall is some five points lower.
- msls-test: six cities without ground truth.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.datasets.folders import ImageFolder, downloader_layout, read_labelled_folders
from mixvpr_jax.datasets.ground_truth import (
    Place,
    find_listed,
    read_indices,
    read_names,
    read_positives,
)
from mixvpr_jax.datasets.names import KEY, NOTE, NUM_FIELDS, TIME, ZONE, fields_of
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import Located, locate, read_text
from mixvpr_jax.storage import AnyPath

VAL_CITIES = ("cph", "sf")
TEST_CITIES = ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala")
_CITY_OF = {"10": "sf", "32": "cph", "33": "cph"}  # by the number of the UTM zone
_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_ZONE_OF = {"cph": "33U", "sf": "10S"}  # of the metres in the tables

# Positives, database, queries, and which of the queries are asked, where the list has more.
_LISTS = tuple(
    tuple(f"msls_val_{name}.npy" for name in names)
    for names in (
        ("pIdx", "dbImages", "qImages", "qIdx"),
        ("gt_25m", "dbImages", "qImages"),
        ("gt", "dbImages", "qImages"),
        ("ground_truth_25m", "ref_image_names", "query_image_names"),
    )
)


@dataclass(frozen=True)
class Shot:
    """An image: Mapillary's key, east and north in metres, their zone ("33U", or "")."""

    key: str
    city: str
    utm: tuple[float, float]
    zone: str
    light: str | None
    season: str | None


_Shots = Sequence[Shot]
_Keys = list[tuple[str, str]]  # city and key of each image
_KeysOfBoth = tuple[_Keys, _Keys]


def read_msls_val(place: Place) -> EvaluationSet:
    """The official 740 queries, their images in Mapillary's folders or in the downloader's."""
    lists = _read_lists(place)
    if lists is None:
        raise InputError(
            f"{place.title}: expected msls_val_dbImages.npy, msls_val_qImages.npy, "
            "msls_val_qIdx.npy and msls_val_pIdx.npy of the authors' repository, or OpenVPRLab's "
            "msls_val_gt_25m.npy with the first two, which name the official 740 queries, found "
            "none; give their folder as ground truth, or evaluate every query as msls-val-all, "
            "which is another protocol"
        )
    found, keys = lists
    found = replace(found, conditions={"city": [city for city, _ in keys[1]]})
    if found.is_absent and (pair := place.pair("val")):
        return _moved(found, keys, pair)
    return _with_shots(found, keys, _official_shots(place))


def read_msls_val_all(place: Place) -> EvaluationSet:
    """Every query of both cities; positives within the radius, city by city."""
    parent = next((root for root in _parents(place) if (root / VAL_CITIES[0]).is_dir()), None)
    found, pair = None if parent is None else _read_tables(place, parent), place.pair("val")
    if found is not None and not (pair and found.is_absent):
        return found
    if pair is None:
        raise place.nothing(
            "Mapillary's train_val/cph and train_val/sf, each with query and database",
            "VPR-datasets-downloader's val/database and val/queries",
        )
    folders = read_labelled_folders(pair)
    return _by_city(place, downloader_layout(pair), folders, list(map(named_shots, folders)))


def read_msls_test(place: Place) -> EvaluationSet:
    """Six cities, by their `subtask_index.csv`; no ground truth."""
    tests = [root / "test" for root in place.roots()]
    parent = next((test for test in tests if (test / TEST_CITIES[0]).is_dir()), None)
    if parent is None:
        raise place.nothing("Mapillary's test/miami and five more cities")
    database, queries = (_subtask(parent, part) for part in ("database", "query"))
    layout = f"Mapillary's: {parent}, with subtask_index.csv"
    cities = {"city": [path.parts[-4] for path in queries.paths]}
    return EvaluationSet.of(place.protocol, layout, database, queries, conditions=cities)


def _parents(place: Place) -> list[AnyPath]:
    """The folders that the cities may lie in."""
    return [parent for root in place.roots() for parent in (root / "train_val", root)]


# The authors' lists -------------------------------------------------------------------------------


def _read_lists(place: Place) -> tuple[EvaluationSet, _KeysOfBoth] | None:
    for truth_name, *files in _LISTS:
        truth = place.truth(truth_name)
        if truth is None or not all(truth.with_name(name).is_file() for name in files):
            continue
        database, queries, *chosen = [truth.with_name(name) for name in files]
        # From the city on: OpenVPRLab leaves out the folder that holds the cities.
        of_database, of_queries = (
            [name.replace("\\", "/").removeprefix("train_val/") for name in read_names(file)]
            for file in (database, queries)
        )
        if chosen:
            asked = read_indices(chosen[0], len(of_queries), queries.name)
            of_queries = [of_queries[query] for query in asked]
        positives = read_positives(truth, len(of_queries), len(of_database))
        keys = _keys(database, of_database), _keys(queries, of_queries)
        names, folders = (of_database, of_queries), [_parents(place)] * 2
        return find_listed(place.protocol, (database, truth), names, positives, folders), keys
    if some := place.truth(*(name for files in _LISTS for name in files)):
        ways = "; or ".join(", ".join(files) for files in _LISTS)
        raise InputError(f"{some}: expected beside each other {ways}; found some of them only")
    return None


def _keys(file: AnyPath, names: Sequence[str]) -> _Keys:
    """City and key of …/cph/query/images/KEY.jpg."""
    keys = []
    for name in names:
        city = next((part for part in name.split("/") if part in VAL_CITIES), None)
        if city is None:
            raise InputError(f"{file}: expected names CITY/query/images/KEY.jpg, found {name!r}")
        keys.append((city, PurePosixPath(name).stem))
    return keys


def _moved(found: EvaluationSet, keys: _KeysOfBoth, pair: tuple[AnyPath, AnyPath]) -> EvaluationSet:
    """The same images where VPR-datasets-downloader moved them, by the keys in their new names."""
    located, by_key = [], dict[str, Shot]()
    for of, folder in zip(keys, read_labelled_folders(pair), strict=True):
        shots = named_shots(folder)
        path_of = {shot.key: path for shot, path in zip(shots, folder.paths, strict=True)}
        by_key |= {shot.key: shot for shot in shots}
        present = np.array([key in path_of for _, key in of], bool)
        paths = (path_of.get(key, folder.root / f"@*@{key}@*.jpg") for _, key in of)
        located.append(Located(tuple(paths), present))
    known = {"positives": found.positives, "conditions": found.conditions}
    layout = f"{found.layout}; images in {downloader_layout(pair)}"
    return _with_shots(EvaluationSet.of(found.protocol, layout, *located, **known), keys, by_key)


def _official_shots(place: Place) -> dict[str, Shot]:
    """By key, out of the tables; empty where there are none."""
    for parent in _parents(place):
        folders = [(parent / city / part, city) for part in _PARTS for city in VAL_CITIES]
        if all((folder / name).is_file() for folder, _ in folders for name in _TABLES):
            return {shot.key: shot for at, city in folders for shot in read_shots(at, city)}
    return {}


def _with_shots(
    whole: EvaluationSet, keys: _KeysOfBoth, shots: Mapping[str, Shot]
) -> EvaluationSet:
    """Adds positions and conditions, where every image has them."""
    database, queries = ([shots[key] for _, key in of if key in shots] for of in keys)
    if len(queries) < len(keys[1]):
        return whole
    whole = replace(whole, conditions={**_conditions(queries), **whole.conditions})
    if len(database) < len(keys[0]):
        return whole
    return _placed(whole, whole.protocol.name, (database, queries))


# Mapillary's tables and a downloader's names ------------------------------------------------------

_PARTS, _TABLES = ("database", "query"), ("raw.csv", "postprocessed.csv")


def _read_tables(place: Place, parent: AnyPath) -> EvaluationSet:
    shots, located = [], []
    for part in _PARTS:
        shots.append(
            [shot for city in VAL_CITIES for shot in read_shots(parent / city / part, city)]
        )
        names = [f"{shot.city}/{part}/images/{shot.key}.jpg" for shot in shots[-1]]
        located.append(locate([parent], names, parent))
    return _by_city(place, f"Mapillary's: {parent}, with postprocessed.csv", located, shots)


def _by_city(
    place: Place, layout: str, located: Sequence[Located], shots: Sequence[_Shots]
) -> EvaluationSet:
    found = EvaluationSet.of(place.protocol, layout, *located, conditions=_conditions(shots[1]))
    return _placed(found, place.title, shots)


def _subtask(parent: AnyPath, part: str) -> Located:
    names = []
    for city in TEST_CITIES:
        rows = _read_table(parent / city / part / "subtask_index.csv", "key", "all")
        keys = [row["key"] for _, row in rows if _FLAGS.get(row["all"].strip().lower())]
        names += [f"{city}/{part}/images/{key}.jpg" for key in keys]
    return locate([parent], names, parent)


def _read_table(file: AnyPath, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a table with the number of their line."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(file, "a table"), newline=""), restval="")
        if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise InputError(f"{file}: expected columns {', '.join(missing)}, found none such")
        for row in reader:
            yield reader.line_num, row
    except OSError as error:
        raise InputError(f"{file}: expected a table, {error.strerror}") from None
    except csv.Error as error:
        raise InputError(f"{file}: expected a table, {error}") from None


def read_shots(folder: AnyPath, city: str) -> list[Shot]:
    """The images of `train_val/CITY/query` or `…/database` without panoramas, in their order."""
    raw = {row["key"]: row for _, row in _read_table(folder / "raw.csv", "key", "pano")}
    shots, file = [], folder / "postprocessed.csv"
    for line, row in _read_table(file, "key", "easting", "northing"):
        key = row["key"]
        if (taken := raw.pop(key, None)) is None:
            found = f"{key}, which is not there, or here twice"
            raise InputError(f"{file}: line {line}: expected an image of raw.csv, found {found}")
        if (pano := _FLAGS.get(taken["pano"].strip().lower())) is None:
            raise InputError(
                f"{folder / 'raw.csv'}: expected True or False in pano, found {taken['pano']!r}"
            )
        if pano:
            continue
        utm = _metres(file, line, row["easting"], row["northing"])
        night = _FLAGS.get((row.get("night") or "").strip().lower())
        light = None if night is None else ("day", "night")[night]
        season = _season(taken.get("captured_at") or "")
        shots.append(Shot(key, city, utm, _ZONE_OF.get(city, ""), light, season))
    return shots


def named_shots(folder: ImageFolder) -> list[Shot]:
    """The same out of VPR-datasets-downloader's names, an image each, in their order."""
    assert folder.utm is not None and folder.zones is not None
    shots, named = [], (folder.paths, folder.utm.tolist(), folder.zones.tolist())
    for path, (east, north), zone in zip(*named, strict=True):
        fields = [*fields_of(path), *[""] * NUM_FIELDS]
        light, _, rest = fields[NOTE].partition("_")
        city = rest.rpartition("_")[2] or _CITY_OF.get(fields[ZONE].lstrip("0"), fields[ZONE])
        shots.append(
            Shot(
                fields[KEY],
                city,
                (east, north),
                zone or _ZONE_OF.get(city, ""),
                light if light in ("day", "night") else None,
                _season(fields[TIME]),
            )
        )
    return shots


def _conditions(shots: _Shots) -> Mapping[str, Sequence[str]]:
    """What all of these images tell: city, light, season."""
    columns = {
        name: [getattr(shot, name) for shot in shots] for name in ("city", "light", "season")
    }
    return {name: labels for name, labels in columns.items() if all(labels)}


def _placed(found: EvaluationSet, source: str, shots: Sequence[_Shots]) -> EvaluationSet:
    utm = [np.array([shot.utm for shot in side], np.float64).reshape(-1, 2) for side in shots]
    zones = [np.array([shot.zone for shot in side], str) for side in shots]
    return found.with_positions(source, utm, zones)


def _metres(file: AnyPath, line: int, *values: str) -> tuple[float, float]:
    try:
        east, north = map(float, values)
    except ValueError:
        east = north = math.nan
    if not (math.isfinite(east) and math.isfinite(north)):
        raise InputError(f"{file}: line {line}: expected metres, found {', '.join(values)}")
    return east, north


def _season(captured: str) -> str | None:
    """The northern hemisphere's, where the cities of val are; from 2018-01-31 or 20180131."""
    date = re.match(r"\d{4}-?(\d\d)", captured)
    month = int(date[1]) if date else 0
    if not 1 <= month <= 12:
        return None
    return ("winter", "spring", "summer", "autumn")[month % 12 // 3]
