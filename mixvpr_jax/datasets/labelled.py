"""Folders of images whose names hold positions: VPR-datasets-downloader's, and any other."""

from __future__ import annotations

import logging
from dataclasses import replace

from mixvpr_jax.datasets.evaluation_set import EvaluationSet, Found, Protocol
from mixvpr_jax.datasets.folders import ImageFolder, read_folder
from mixvpr_jax.datasets.positions import (
    on_one_plane,
    place,
    positives_of,
    positives_within,
    require_metres,
)
from mixvpr_jax.datasets.protocols import BENCHMARKS
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath, resolved

logger = logging.getLogger(__name__)

LABELS = "@utm_east@utm_north@ in file names"
FOLDER_MARK = "-folder"  # ends the name of a folder that is called like a benchmark


def read_folder_pair(
    database: AnyPath, queries: AnyPath, *, radius_m: float = 25.0
) -> EvaluationSet:
    """Any two folders of images; ground truth where the names of both hold positions.

    Args:
        database: Folder of the images that are searched, at any depth.
        queries: Folder of the images that are looked for.
        radius_m: How near a positive is, in metres, inclusive.

    Raises:
        InputError: A folder without images, or positions in some of its names only.
    """
    pair = read_folder(database), read_folder(queries)
    without = [folder.root for folder in pair if folder.utm is None]
    labelled = not without
    protocol = Protocol(
        name=unlike_benchmarks(_pair_name(database, queries)),
        ground_truth=LABELS if labelled else "none",
        positives=f"within {radius_m:g} m" if labelled else "none",
        radius_m=radius_m if labelled else None,
    )
    if len(without) == 1:
        logger.warning(
            "note: no recall is measured, as %s has no %s, though the other folder has",
            without[0], LABELS,
        )  # fmt: skip
    return _evaluation_set(protocol, "two folders", pair, radius_m)


def unlike_benchmarks(name: str) -> str:
    """A folder's name, changed where it could be taken for a benchmark's."""

    def plain(text: str) -> str:
        return "".join(filter(str.isalnum, text.casefold()))

    return f"{name}{FOLDER_MARK}" if plain(name) in map(plain, BENCHMARKS) else name


def read_labelled(
    protocol: Protocol, pair: tuple[AnyPath, AnyPath], *, mock: bool = False
) -> Found:
    """A benchmark as VPR-datasets-downloader lays it out.

    Args:
        protocol: Which, with its radius.
        pair: The folders of database and queries.
        mock: Whether the positions are made up, so that the right images lie within 25 m: then
            they make positives, and no map.

    Raises:
        InputError: The names hold no positions.
    """
    folders = read_labelled_folders(pair)
    radius_m = 25.0 if mock or protocol.radius_m is None else protocol.radius_m
    layout = downloader_layout(pair)
    truth = f"{LABELS}, made up" if mock else LABELS
    protocol = replace(protocol, ground_truth=truth)
    return Found.complete(_evaluation_set(protocol, layout, folders, radius_m, mock=mock))


def read_labelled_folders(pair: tuple[AnyPath, AnyPath]) -> tuple[ImageFolder, ImageFolder]:
    """Both folders, with positions in metres.

    Raises:
        InputError: The names hold no positions.
    """
    folders = read_folder(pair[0]), read_folder(pair[1])
    for folder in folders:
        if folder.utm is None:
            raise InputError(f"{folder.root}: expected {LABELS}, found {folder.paths[0].name}")
    return folders


def downloader_layout(pair: tuple[AnyPath, AnyPath]) -> str:
    """The layout in words."""
    return f"VPR-datasets-downloader's: {pair[0]} and {pair[1].name}, {LABELS}"


def _evaluation_set(
    protocol: Protocol,
    layout: str,
    pair: tuple[ImageFolder, ImageFolder],
    radius_m: float,
    *,
    mock: bool = False,
) -> EvaluationSet:
    database, queries = pair
    images = protocol, layout, database.paths, queries.paths
    if database.utm is None or queries.utm is None:
        return EvaluationSet(*images)
    if mock:
        return EvaluationSet(*images, positives_within(queries.utm, database.utm, radius_m))
    source, sides = f"{database.root} and {queries.root}", (database.utm, queries.utm)
    require_metres(source, *sides)
    assert database.zones is not None and queries.zones is not None
    placed = place(source, sides, (database.zones, queries.zones))
    positives = positives_of(placed[1], placed[0], radius_m)
    return EvaluationSet(*images, positives, *on_one_plane(*placed))


def _pair_name(database: AnyPath, queries: AnyPath) -> str:
    """The folder that holds both, where there is one: `city` of city/database and city/queries."""
    database, queries = resolved(database), resolved(queries)
    if database.parent == queries.parent:
        return database.parent.name
    return f"{queries.name} in {database.name}"
