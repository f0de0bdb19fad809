"""Folders of images, with positions in the file names or without."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from etils import epath

from mixvpr_jax.checks import no_folder
from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.datasets.names import position_of, zone_of
from mixvpr_jax.datasets.positions import positives_within
from mixvpr_jax.datasets.protocols import BENCHMARKS, Protocol
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import IMAGE_SUFFIXES, Located, files_below, locate, read_text
from mixvpr_jax.storage import AnyPath, reaching, resolved

# Photos in unsupported formats: from phones, raw from cameras, newer or rarer formats.
UNREAD_SUFFIXES = frozenset({
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx",
    ".jpm", ".jxr", ".jls", ".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw",
    ".arw", ".sr2", ".srf", ".raf", ".orf", ".rw2", ".rwl", ".pef", ".srw", ".3fr",
    ".iiq", ".erf", ".kdc", ".dcr", ".mrw", ".mef", ".mos", ".x3f", ".gpr", ".fff",
    ".heics", ".avifs", ".qoi", ".jng", ".btf", ".psd", ".tga", ".pcx", ".exr", ".hdr",
    ".pfm", ".ras", ".sgi", ".fits", ".dcm", ".jpc", ".jph", ".dds", ".ico", ".xcf",
})  # fmt: skip
# What lies beside photos; other files are told, as they may be photos of unusual names.
COMPANION_SUFFIXES = frozenset({
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf",
    ".npy", ".npz", ".mat", ".h5", ".pkl", ".pt", ".pth", ".db", ".ini", ".log", ".py", ".sh",
    ".mp4", ".mov", ".avi", ".mkv", ".gpx", ".kml", ".geojson", ".zip", ".tar", ".gz", ".xmp",
})  # fmt: skip
# Of Synology's, QNAP's, NetApp's and Asustor's disks, of Windows and of Linux.
SYSTEM_FOLDERS = frozenset({
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot",
    "recycle bin", "$recycle.bin", "recycler", "system volume information", "lost+found",
})  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder(Located):
    """The images at any depth below `root`, sorted by path or in the order of a list beside it.

    Attributes:
        utm: [n, 2] float64, east and north in metres; None where no name holds a position.
        zones: [n] text, the UTM zone and latitude band of each position ("17T"), the zone alone
            ("17"), or nothing; None without positions.
    """

    root: AnyPath
    utm: np.ndarray | None
    zones: np.ndarray | None


def read_folder(root: AnyPath) -> ImageFolder:
    """Lists a folder's images and reads the positions in their names.

    Where `<folder>_images_paths.txt` lies beside the folder, as VPR-methods-evaluation has it, the
    images that it lists are the folder's, in that order.
    """
    paths = list_images(root)
    return ImageFolder(paths, np.ones(len(paths), bool), root, *_positions(root, paths))


def list_images(root: AnyPath) -> tuple[AnyPath, ...]:
    """The images of a folder, in the order of `read_folder`, whatever their names hold."""
    with reaching(root):
        if not root.is_dir():
            raise InputError(f"{root}: expected a folder of images, found {no_folder(root)}")
        return _listed(root) or _found(root)


def _listed(root: AnyPath) -> tuple[AnyPath, ...] | None:
    """The images that a list beside the folder names; None where there is no list."""
    folder = root if root.name not in ("", "..") else resolved(root)
    if not folder.name or not (file := folder.parent / f"{folder.name}_images_paths.txt").is_file():
        return None
    otherwise = ", or remove it to take all images of the folder"
    paths = read_list(file, folder, (folder, folder.parent), otherwise)
    logger.warning("note: %s: %d images, as listed in %s", root, len(paths), file)
    return paths


def read_list(
    file: AnyPath, folder: AnyPath, bases: Sequence[AnyPath], otherwise: str = ""
) -> tuple[AnyPath, ...]:
    """The images in a folder that a text file names, a line each; a repeated one counts once.

    The names may be relative to `bases`, or absolute and inside the folder; errors end with what to
    do `otherwise` than fix the list.
    """
    if not (names := read_lines(file)):
        raise InputError(f"{file}: expected the images of {folder}, a line each, found none")
    for root in (folder.absolute() if isinstance(folder, Path) else folder, resolved(folder)):
        names = [name.removeprefix(f"{root}/") for name in names]
    located = locate(bases, names, file)
    pairs = zip(located.paths, located.present, strict=True)
    missing = [path for path, there in pairs if not (there and path.is_relative_to(folder))]
    if missing:
        raise InputError(
            f"{file}: expected {len(names):,} images in {folder}, found {len(missing):,} missing, "
            f"the first {missing[0]}; fix the list{otherwise}",
            details=[f"missing: {path}" for path in missing],
        )
    distinct = tuple(dict.fromkeys(located.paths))
    if len(distinct) < len(names):  # whoever counts lines is told
        listed = f"{len(distinct):,} images are listed by {len(names):,} names"
        logger.warning("note: %s: %s; each counts once", file, listed)
    return distinct


def read_lines(file: AnyPath) -> list[str]:
    """What the lines of a list of images hold, without the empty ones."""
    lines = read_text(file, "a list of images").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _found(root: AnyPath) -> tuple[AnyPath, ...]:
    """Every image below the folder, sorted; photos that cannot be read are told."""
    files = list(_files(root) if isinstance(root, Path) else _objects(root))
    paths = tuple(sorted(path for path in files if _suffix(path) in IMAGE_SUFFIXES))
    unread = [path for path in files if _suffix(path) in UNREAD_SUFFIXES]
    known = IMAGE_SUFFIXES | UNREAD_SUFFIXES | COMPANION_SUFFIXES
    odd = [path for path in files if path.name[0] != "." and _suffix(path) not in known]
    kinds = _kinds(unread)
    if not paths:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        others = odd or files
        other = f" but {len(others):,} other files ({_kinds(others)})" if others else ""
        if kinds:
            other = f" but photos that cannot be read ({kinds}); convert them to JPEG"
        raise InputError(f"{root}: expected images ({suffixes}), found none{other}")
    if kinds:
        logger.warning(
            "note: %s: %d photos are left out, as their format cannot be read (%s); convert them "
            "to JPEG to have them", root, len(unread), kinds,
        )  # fmt: skip
    if odd:
        line = "note: %s: %d other files are left out (%s); where they are photos, name them .jpg"
        logger.warning(line, root, len(odd), _kinds(odd))
    return paths


def _kinds(files: Sequence[PurePath]) -> str:
    """How many files have which ending, but for rare ones."""
    found = sorted(Counter(map(_suffix, files)).most_common(9))
    return ", ".join(f"{count:,} {suffix or 'without an ending'}" for suffix, count in found)


def _files(root: Path) -> Iterator[Path]:
    """All files, by their names alone: one that cannot be read shall be reported.

    Links to folders are followed, but a folder that several links reach counts once; a link to an
    image that is found by its own name does not count.
    """
    files, links, images, visited = list[os.DirEntry[str]](), deque[Path](), set[str](), set[str]()
    folders = deque([root])
    while folders or links:
        folder = (folders or links).popleft()  # `latest -> run3` is run3, by its own name
        if (real := os.path.realpath(folder)) in visited:
            continue
        visited.add(real)
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{folder}: expected a folder of images, {error.strerror}") from None
        for entry in inside:
            is_link = entry.is_symlink()
            if os.path.isdir(entry) if is_link else entry.is_dir():  # noqa: PTH112 - no error of a loop
                if not _is_hidden(entry.name):
                    (links if is_link else folders).append(Path(entry))
                continue
            files.append(entry)
            if not is_link and _suffix(Path(entry.name)) in IMAGE_SUFFIXES:
                images.add(f"{real}{os.sep}{entry.name}")
    for entry in files:
        # A folder of links alone, as of a subset, is not asked where each of them leads.
        if not (images and entry.is_symlink() and os.path.realpath(entry) in images):
            yield Path(entry)


def _objects(root: epath.Path) -> Iterator[epath.Path]:
    names = files_below(root)
    parts = ((root / name, name.split("/")) for name in names)
    return (path for path, (*folders, name) in parts if name and not any(map(_is_hidden, folders)))


def _is_hidden(folder: str) -> bool:
    """Whether to skip a folder: hidden, or the system's (thumbnails, deleted photos)."""
    return folder.startswith(".") or folder.lower() in SYSTEM_FOLDERS


def _suffix(path: PurePath) -> str:
    """The ending in lower case; "" of a hidden file."""
    return "" if path.name.startswith(".") else path.suffix.lower()


def _positions(
    root: AnyPath, paths: Sequence[AnyPath]
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    unlabelled = [path for path in paths if not path.name.startswith("@")]
    if len(unlabelled) == len(paths):
        with suppress(InputError):
            position_of(paths[0])
            line = "note: %s: no positions are read, as names such as %s do not begin with @"
            logger.warning(line, root, paths[0].name)
        return None, None
    if unlabelled:
        raise InputError(
            f"{root}: expected @utm_east@utm_north@ in every file name or in none, found it in "
            f"{len(paths) - len(unlabelled)} of {len(paths)}; without it, for one: "
            f"{unlabelled[0]}; move those without a position to a folder of their own"
        )
    utm = np.array(list(map(position_of, paths)), np.float64)
    return utm, np.array(list(map(zone_of, paths, utm[:, 1])))


# Two folders as an evaluation set -----------------------------------------------------------------

LABELS = "@utm_east@utm_north@ in file names"
FOLDER_MARK = "-folder"  # ends the name of a folder that is called like a benchmark


def read_folder_pair(
    database: AnyPath, queries: AnyPath, *, radius_m: float = 25.0
) -> EvaluationSet:
    """Any two folders of images; ground truth where the names of both hold positions.

    A positive lies within `radius_m` metres of its query, inclusive.

    Raises:
        InputError: A folder without images, or positions in some of its names only.
    """
    pair = read_folder(database), read_folder(queries)
    without = [folder.root for folder in pair if folder.utm is None]
    protocol = Protocol(
        name=unlike_benchmarks(_pair_name(database, queries)),
        ground_truth="none" if without else LABELS,
        positives="none" if without else f"within {radius_m:g} m",
        radius_m=None if without else radius_m,
    )
    if len(without) == 1:
        logger.warning(
            "note: no recall is measured, as %s has no %s, though the other folder has",
            without[0], LABELS,
        )  # fmt: skip
    found = _evaluation_set(protocol, "two folders", pair)
    counts = set(map(len, found.positives or ()))
    if counts == {0}:
        there, asked = (np.median(folder.utm, axis=0) for folder in pair if folder.utm is not None)
        logger.warning(
            "note: no query has a database photo within %g m, so recall is 0: expected east before "
            "north, in metres of one frame, found positions around %.1f, %.1f in %s and %.1f, %.1f "
            "in %s", radius_m, *there, database, *asked, queries,
        )  # fmt: skip
    if counts == {len(found.database)} and len(found.database) > 1:
        logger.warning(
            "note: every query has all %d database photos within %g m, so recall is 100 whatever "
            "the model: expected positions in metres in the names", len(found.database), radius_m,
        )  # fmt: skip
    return found


def unlike_benchmarks(name: str) -> str:
    """A folder's name, changed where it could be taken for a benchmark's."""

    def plain(text: str) -> str:
        return "".join(filter(str.isalnum, text.casefold()))

    return f"{name}{FOLDER_MARK}" if plain(name) in map(plain, BENCHMARKS) else name


def read_labelled(protocol: Protocol, pair: tuple[AnyPath, AnyPath]) -> EvaluationSet:
    """A benchmark's folders of database and queries, as VPR-datasets-downloader lays them out.

    Where the protocol has no radius, positions are made up, so that the right images lie within
    25 m: then they make positives, and no map.
    """
    truth = LABELS if protocol.radius_m is not None else f"{LABELS}, made up"
    protocol = replace(protocol, ground_truth=truth)
    return _evaluation_set(protocol, downloader_layout(pair), read_labelled_folders(pair))


def read_labelled_folders(pair: tuple[AnyPath, AnyPath]) -> tuple[ImageFolder, ImageFolder]:
    """Both folders; InputError if the names hold no positions."""
    folders = read_folder(pair[0]), read_folder(pair[1])
    for folder in folders:
        if folder.utm is None:
            raise InputError(f"{folder.root}: expected {LABELS}, found {folder.paths[0].name}")
    return folders


def downloader_layout(pair: tuple[AnyPath, AnyPath]) -> str:
    """The layout in words."""
    return f"VPR-datasets-downloader's: {pair[0]} and {pair[1].name}, {LABELS}"


def _evaluation_set(
    protocol: Protocol, layout: str, pair: tuple[ImageFolder, ImageFolder]
) -> EvaluationSet:
    found, (database, queries) = EvaluationSet.of(protocol, layout, *pair), pair
    if database.utm is None or queries.utm is None:
        return found
    if protocol.radius_m is None:
        return replace(found, positives=positives_within(queries.utm, database.utm, 25.0))
    assert database.zones is not None and queries.zones is not None
    source, zones = f"{database.root} and {queries.root}", (database.zones, queries.zones)
    return found.with_positions(source, (database.utm, queries.utm), zones)


def _pair_name(database: AnyPath, queries: AnyPath) -> str:
    """The folder that holds both, where there is one: `city` of city/database and city/queries."""
    database, queries = resolved(database), resolved(queries)
    if database.parent == queries.parent and database.parent.name:  # the root of a disk has none
        return database.parent.name
    return f"{queries.name} in {database.name}"
