"""Folders of images whose names hold positions: VPR-datasets-downloader's, and any other."""

from __future__ import annotations

from mixvpr_jax.data.benchmarks.images import Found
from mixvpr_jax.data.benchmarks.positions import positives_within, require_metres
from mixvpr_jax.data.evaluation_set import EvaluationSet, Protocol
from mixvpr_jax.data.folders import ImageFolder, read_folder
from mixvpr_jax.errors import InputError
from mixvpr_jax.stores import AnyPath, resolved

LABELS = "@utm_east@utm_north@ in file names"


def read_folder_pair(
    database: AnyPath, queries: AnyPath, *, radius_m: float = 25.0
) -> EvaluationSet:
    """Any two folders of images; ground truth where the names hold positions.

    Args:
        database: Folder of the images that are searched, at any depth.
        queries: Folder of the images that are looked for.
        radius_m: How near a positive is, in metres, inclusive.

    Raises:
        InputError: A folder without images, or positions in one folder, or in some names, only.
    """
    pair = read_folder(database), read_folder(queries)
    labelled = _both_labelled(*pair)
    protocol = Protocol(
        name=_pair_name(database, queries),
        ground_truth=LABELS if labelled else "none",
        positives=f"within {radius_m:g} m" if labelled else "none",
        radius_m=radius_m if labelled else None,
    )
    return _evaluation_set(protocol, "two folders", pair, radius_m)


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
    return Found.complete(_evaluation_set(protocol, layout, folders, radius_m, mock=mock))


def read_labelled_folders(pair: tuple[AnyPath, AnyPath]) -> tuple[ImageFolder, ImageFolder]:
    """Both folders, with positions in metres.

    Raises:
        InputError: The names hold no positions.
    """
    database, queries = read_folder(pair[0]), read_folder(pair[1])
    if not _both_labelled(database, queries):
        raise InputError(f"{pair[0]}: expected {LABELS}, found {database.paths[0].name}")
    return database, queries


def downloader_layout(pair: tuple[AnyPath, AnyPath]) -> str:
    """The layout in words."""
    return f"VPR-datasets-downloader's: {pair[0]} and {pair[1].name}, {LABELS}"


def _both_labelled(database: ImageFolder, queries: ImageFolder) -> bool:
    if (database.utm is None) != (queries.utm is None):
        with_labels, without = (queries, database) if database.utm is None else (database, queries)
        raise InputError(
            f"expected @utm_east@utm_north@ names in both folders or in none, found them in "
            f"{with_labels.root} and not in {without.root}"
        )
    return database.utm is not None


def _evaluation_set(
    protocol: Protocol,
    layout: str,
    pair: tuple[ImageFolder, ImageFolder],
    radius_m: float,
    *,
    mock: bool = False,
) -> EvaluationSet:
    database, queries = pair
    positives = None
    if database.utm is not None and queries.utm is not None:
        if not mock:
            require_metres(f"{database.root} and {queries.root}", database.utm, queries.utm)
        positives = positives_within(queries.utm, database.utm, radius_m)
    return EvaluationSet(
        protocol,
        layout,
        database.paths,
        queries.paths,
        positives,
        None if mock else database.utm,
        None if mock else queries.utm,
    )


def _pair_name(database: AnyPath, queries: AnyPath) -> str:
    """The folder that holds both, where there is one: `city` of city/database and city/queries."""
    database, queries = resolved(database), resolved(queries)
    if database.parent == queries.parent:
        return database.parent.name
    return f"{queries.name} in {database.name}"
