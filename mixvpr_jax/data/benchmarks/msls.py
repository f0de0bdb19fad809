"""Mapillary Street-Level Sequences, which three protocols are made of.

- msls-val: the official 740 queries, by the authors' lists.
- msls-val-all: every query of the same two cities, whose recall is some five points lower.
- msls-test: six cities without ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mixvpr_jax.data.benchmarks.images import Found, Located, locate
from mixvpr_jax.data.benchmarks.labelled import downloader_layout, read_labelled_folders
from mixvpr_jax.data.benchmarks.lists import (
    Lists,
    find_together,
    read_indices,
    read_names,
    read_positives,
)
from mixvpr_jax.data.benchmarks.msls_tables import (
    TEST_CITIES,
    VAL_CITIES,
    Shot,
    conditions,
    named_shots,
    positions,
    read_shots,
    read_table,
)
from mixvpr_jax.data.benchmarks.places import Place
from mixvpr_jax.data.benchmarks.positions import positives_within_groups, require_metres
from mixvpr_jax.data.evaluation_set import EvaluationSet
from mixvpr_jax.errors import InputError
from mixvpr_jax.stores import AnyPath

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
            "msls_val_qIdx.npy and msls_val_pIdx.npy of the authors' repository, which name the "
            "official 740 queries, found none; give their folder as ground truth, or evaluate "
            "every query as msls-val-all, which is another protocol"
        )
    roots = place.roots()
    found = lists.find(place, roots)
    keys = _keys(lists.file, lists.database), _keys(lists.file, lists.queries)
    cities = {"city": [city for city, _ in keys[1]]}
    found = replace(found, whole=replace(found.whole, conditions=cities))
    pair = None if found.database_present.any() else place.pair("val")
    if pair is not None:
        return _moved(found, keys, pair)
    return replace(found, whole=_with_shots(found.whole, keys, _official_shots(roots)))


def _read_lists(place: Place) -> Lists | None:
    official = [f"msls_val_{name}.npy" for name in ("dbImages", "qImages", "qIdx")]
    openvprlab = [f"msls_val_{name}.npy" for name in ("ref_image_names", "query_image_names")]
    if files := find_together(place, ("msls_val_pIdx.npy",), *official):
        truth, database, queries, chosen = files
        every = read_names(queries)
        names = [every[query] for query in read_indices(chosen, len(every), queries.name)]
    elif files := find_together(place, ("msls_val_ground_truth_25m.npy",), *openvprlab):
        truth, database, queries = files
        names = read_names(queries)
    else:
        return None
    of_database = read_names(database)
    positives = read_positives(truth, len(names), len(of_database))
    return Lists(database, of_database, names, positives)


def _keys(file: AnyPath, names: Sequence[str]) -> list[tuple[str, str]]:
    """City and key of …/cph/query/images/KEY.jpg."""
    parts = [name.replace("\\", "/").split("/") for name in names]
    short = next((name for name, part in zip(names, parts, strict=True) if len(part) < 4), None)
    if short is not None:
        raise InputError(f"{file}: expected names CITY/query/images/KEY.jpg, found {short!r}")
    return [(part[-4], Path(part[-1]).stem) for part in parts]


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
    return replace(whole, database_utm=positions(images), queries_utm=positions(known))


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
    utm = positions(of_database), positions(of_queries)
    require_metres(place.title, *utm)
    positives = positives_within_groups(
        utm[1], utm[0],
        [shot.city for shot in of_queries], [shot.city for shot in of_database],
        place.protocol.radius_m or 25.0,
    )  # fmt: skip
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
