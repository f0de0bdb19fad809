"""Mapillary Street-Level Sequences, which three protocols are made of.

- msls-val: the official 740 queries, by the authors' lists.
- msls-val-all: every query of the same two cities, whose recall is some five points lower.
- msls-test: six cities without ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet, Found
from mixvpr_jax.datasets.labelled import downloader_layout, read_labelled_folders
from mixvpr_jax.datasets.lists import (
    Lists,
    read_indices,
    read_names,
    read_positives,
)
from mixvpr_jax.datasets.msls_tables import (
    TEST_CITIES,
    VAL_CITIES,
    Shot,
    conditions,
    named_shots,
    positions,
    read_shots,
    read_table,
)
from mixvpr_jax.datasets.places import Place
from mixvpr_jax.datasets.positions import on_one_plane, positives_of
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import Located, locate
from mixvpr_jax.storage import AnyPath

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

# City and key of each database image, and of each query.
_Keys = tuple[list[tuple[str, str]], list[tuple[str, str]]]


def read_msls_val(place: Place) -> Found:
    """The official 740, their images in Mapillary's folders or in the downloader's.

    Raises:
        InputError: The lists are not there, or broken.
    """
    lists = _read_lists(place)
    if lists is None:
        raise InputError(
            f"{place.title}: expected msls_val_dbImages.npy, msls_val_qImages.npy, "
            "msls_val_qIdx.npy and msls_val_pIdx.npy of the authors' repository, or OpenVPRLab's "
            "msls_val_gt_25m.npy with the first two, which name the official 740 queries, found "
            "none; give their folder as ground truth, or evaluate every query as msls-val-all, "
            "which is another protocol"
        )
    roots = place.roots()
    found = lists.find(place, [base for root in roots for base in (root / "train_val", root)])
    keys = _keys(lists.file, lists.database), _keys(lists.file, lists.queries)
    cities = {"city": [city for city, _ in keys[1]]}
    found = replace(found, whole=replace(found.whole, conditions=cities))
    pair = None if found.database_present.any() else place.pair("val")
    if pair is not None:
        return _moved(found, keys, pair)
    return replace(found, whole=_with_shots(found.whole, keys, _official_shots(roots)))


def _read_lists(place: Place) -> Lists | None:
    """Of the files that users have, those that are there: positives, database, queries, choice."""
    for truth_name, *names in _LISTS:
        truth = place.truth(truth_name)
        if truth is None or not all(truth.with_name(name).is_file() for name in names):
            continue
        database, queries, *chosen = [truth.with_name(name) for name in names]
        of_database, of_queries = map(_without_root, map(read_names, (database, queries)))
        if chosen:
            asked = read_indices(chosen[0], len(of_queries), queries.name)
            of_queries = [of_queries[query] for query in asked]
        positives = read_positives(truth, len(of_queries), len(of_database))
        return Lists(database, truth, of_database, of_queries, positives)
    if some := place.truth(*(name for files in _LISTS for name in files)):
        ways = "; or ".join(", ".join(files) for files in _LISTS)
        raise InputError(f"{some}: expected beside each other {ways}; found some of them only")
    return None


def _without_root(names: Sequence[str]) -> list[str]:
    """Names from the city on: OpenVPRLab leaves out the folder that holds the cities."""
    return [name.replace("\\", "/").removeprefix("train_val/") for name in names]


def _keys(file: AnyPath, names: Sequence[str]) -> list[tuple[str, str]]:
    """City and key of …/cph/query/images/KEY.jpg."""
    keys = []
    for name in names:
        city = next((part for part in name.split("/") if part in VAL_CITIES), None)
        if city is None:
            raise InputError(f"{file}: expected names CITY/query/images/KEY.jpg, found {name!r}")
        keys.append((city, PurePosixPath(name).stem))
    return keys


def _moved(found: Found, keys: _Keys, pair: tuple[AnyPath, AnyPath]) -> Found:
    """The same images where VPR-datasets-downloader moved them, by the keys in their new names."""
    folders = read_labelled_folders(pair)
    shots = [named_shots(folder) for folder in folders]
    located = []
    for of, folder, named in zip(keys, folders, shots, strict=True):
        path_of = {shot.key: path for shot, path in zip(named, folder.paths, strict=True)}
        present = np.array([key in path_of for _, key in of], bool)
        paths = (path_of.get(key, folder.root / f"@*@{key}@*.jpg") for _, key in of)
        located.append(Located(tuple(paths), present))
    database, queries = located
    whole = replace(
        found.whole,
        layout=f"{found.whole.layout}; images in {downloader_layout(pair)}",
        database=database.paths,
        queries=queries.paths,
    )
    by_key = {shot.key: shot for shot in (*shots[0], *shots[1])}
    return Found(_with_shots(whole, keys, by_key), database.present, queries.present)


def _official_shots(roots: Sequence[AnyPath]) -> dict[str, Shot]:
    """By key, out of the tables; empty where there are none."""
    for root in roots:
        for parent in (root / "train_val", root):
            folders = _folders(parent, VAL_CITIES)
            if _have_tables(folders):
                shots = [shot for folder, city in folders for shot in read_shots(folder, city)]
                return {shot.key: shot for shot in shots}
    return {}


def _have_tables(folders: Sequence[tuple[AnyPath, str]]) -> bool:
    tables = [folder / name for folder, _ in folders for name in ("raw.csv", "postprocessed.csv")]
    return all(table.is_file() for table in tables)


def _folders(parent: AnyPath, cities: Sequence[str]) -> list[tuple[AnyPath, str]]:
    return [(parent / city / part, city) for part in ("database", "query") for city in cities]


def _with_shots(whole: EvaluationSet, keys: _Keys, shots: dict[str, Shot]) -> EvaluationSet:
    """Adds positions and conditions, where every image has them."""
    database, queries = ([shots.get(key) for _, key in of] for of in keys)
    known = [shot for shot in queries if shot is not None]
    if len(known) < len(queries):
        return whole
    whole = replace(whole, conditions={**conditions(known), **whole.conditions})
    images = [shot for shot in database if shot is not None]
    if len(images) < len(database):
        return whole
    database_utm, queries_utm = on_one_plane(*positions(whole.name, images, known))
    return replace(whole, database_utm=database_utm, queries_utm=queries_utm)


def read_msls_val_all(place: Place) -> Found:
    """Every query of both cities; positives within the radius, city by city.

    Raises:
        InputError: Neither layout is there, or its tables are broken.
    """
    parents = [parent for root in place.roots() for parent in (root / "train_val", root)]
    parent = next((parent for parent in parents if (parent / VAL_CITIES[0]).is_dir()), None)
    found, pair = None if parent is None else _read_tables(place, parent), place.pair("val")
    if found is not None and (pair is None or found.database_present.any()):
        return found
    if pair is not None:
        return _read_names(place, pair)
    raise place.nothing(
        "Mapillary's train_val/cph and train_val/sf, each with query and database",
        "VPR-datasets-downloader's val/database and val/queries",
    )


def _read_names(place: Place, pair: tuple[AnyPath, AnyPath]) -> Found:
    database, queries = folders = read_labelled_folders(pair)
    shots = [named_shots(folder) for folder in folders]
    layout = downloader_layout(pair)
    return Found.complete(_by_city(place, layout, database.paths, queries.paths, *shots))


def _read_tables(place: Place, parent: AnyPath) -> Found:
    shots, located = [], []
    for part in ("database", "query"):
        here = [read_shots(parent / city / part, city) for city in VAL_CITIES]
        shots.append([shot for of_city in here for shot in of_city])
        names = [f"{shot.city}/{part}/images/{shot.key}.jpg" for shot in shots[-1]]
        located.append(locate([parent], names, parent))
    layout = f"Mapillary's: {parent}, with postprocessed.csv"
    whole = _by_city(place, layout, located[0].paths, located[1].paths, *shots)
    return Found(whole, located[0].present, located[1].present)


def _by_city(
    place: Place,
    layout: str,
    database: tuple[AnyPath, ...],
    queries: tuple[AnyPath, ...],
    of_database: list[Shot],
    of_queries: list[Shot],
) -> EvaluationSet:
    placed = positions(place.title, of_database, of_queries)
    positives = positives_of(placed[1], placed[0], place.protocol.radius_m or 25.0)
    utm = on_one_plane(*placed)
    labels = conditions(of_queries)
    return EvaluationSet(place.protocol, layout, database, queries, positives, *utm, labels)


def read_msls_test(place: Place) -> Found:
    """Six cities, by their `subtask_index.csv`; no ground truth.

    Raises:
        InputError: They are not all there, or a table is broken.
    """
    root = next((root for root in place.roots() if (root / "test" / TEST_CITIES[0]).is_dir()), None)
    if root is None:
        raise InputError(
            f"{place.title}: expected Mapillary's test/miami and five more cities, found none"
        )
    located = [_listed(root / "test", part) for part in ("database", "query")]
    cities = [path.parts[-4] for path in located[1].paths]
    whole = EvaluationSet(
        place.protocol,
        f"Mapillary's: {root / 'test'}, with subtask_index.csv",
        located[0].paths,
        located[1].paths,
        conditions={"city": cities},
    )
    return Found(whole, located[0].present, located[1].present)


def _listed(parent: AnyPath, part: str) -> Located:
    names = []
    for city in TEST_CITIES:
        file = parent / city / part / "subtask_index.csv"
        rows = read_table(file, "key", "all")
        keys = [row["key"] for _, row in rows if row["all"].strip().lower() == "true"]
        names += [f"{city}/{part}/images/{key}.jpg" for key in keys]
    return locate([parent], names, parent)
