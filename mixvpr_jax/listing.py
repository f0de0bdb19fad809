"""Listing folders of images, finding the images of a list in them, and tables of images."""

from __future__ import annotations

import csv
import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.exif import unix_seconds
from mixvpr_jax.storage import AnyPath, is_local, reaching, store_of

# Usual suffixes of `preprocess.FORMATS`.
IMAGE_SUFFIXES = frozenset({
    ".bmp", ".dib", ".gif", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".webp", ".mpo", ".jps", ".insp",
})  # fmt: skip
# Photos in unsupported formats: from phones, raw from cameras, newer or rarer formats.
UNREAD_SUFFIXES = frozenset({
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx",
    ".jpm", ".jxr", ".jls", ".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw",
    ".arw", ".sr2", ".srf", ".raf", ".orf", ".rw2", ".rwl", ".pef", ".srw", ".3fr",
    ".iiq", ".erf", ".kdc", ".dcr", ".mrw", ".mef", ".mos", ".x3f", ".gpr", ".fff",
    ".heics", ".avifs", ".qoi", ".jng", ".btf", ".psd", ".tga", ".pcx", ".exr", ".hdr",
    ".pfm", ".ras", ".sgi", ".fits", ".dcm",
})  # fmt: skip

# No folder has that name, or can have it.
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
VARIABLE = "MIXVPR_LINKED_FOLDERS"
DOWNLOADER_FIELDS = 15  # between the "@" of a name by VPR-datasets-downloader, at least
_ZONE = re.compile(r"^0*\d\d?\s*@?[A-Za-z](?=@|$)", re.ASCII)  # of UTM, and its latitude band
_SAMPLE = 64  # names that decide which folder a list is relative to


def links_in(folder: AnyPath) -> Mapping[str, bool]:
    """Name → whether it is a link, for every entry of a folder; empty if there is no such folder.

    Raises:
        OSError: The folder cannot be listed.
    """
    try:
        if not is_local(folder):
            return dict.fromkeys((name for name, _ in _remote(folder)), False)
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries}
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in _NO_FOLDER:
            return {}
        raise


def sizes_in(folder: AnyPath) -> Mapping[str, int]:
    """Name → size in bytes, for every file in a folder; FileNotFoundError if there is no folder."""
    if is_local(folder):
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    return {name: found["size"] for name, found in _remote(folder) if found["type"] == "file"}


def stamps_in(folder: AnyPath) -> Mapping[str, str]:
    """Name → a text that changes with the content, for every object in a folder of a store."""
    with reaching(folder):
        return {
            name: f"{found['size']} {found.get('generation')}"
            for name, found in _remote(folder)
            if found["type"] == "file"
        }


def names_in(folder: AnyPath, kind: Literal["directory", "file"]) -> list[str]:
    """Names of the folders or of the files in a folder; empty if it cannot be listed."""
    try:
        if not is_local(folder):
            return [name for name, found in _remote(folder) if found["type"] == kind]
        with os.scandir(folder) as entries:
            return [e.name for e in entries if (e.is_dir if kind == "directory" else e.is_file)()]
    except OSError:
        return []


def files_below(folder: AnyPath) -> list[str]:
    """Relative names of the objects below a folder of a store, at any depth."""
    store, path = store_of(folder)
    with reaching(folder):
        return [name.removeprefix(path).lstrip("/") for name in store.find(path)]


def _remote(folder: AnyPath) -> list[tuple[str, dict[str, Any]]]:
    """The name of each entry in a folder of a store, and what the store tells of it."""
    store, path = store_of(folder)
    found = store.ls(path, detail=True)
    return [(entry["name"].rstrip("/").rpartition("/")[2], entry) for entry in found]


def inside(name: str, source: object) -> PurePosixPath:
    """A listed name as a relative path that stays inside its folder, unless through links.

    Raises:
        InputError: It is absolute, contains `..` or cannot be the name of a file.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive
    try:
        possible = bool(path.name) and "\0" not in name and len(os.fsencode(name)) < 4096
    except UnicodeEncodeError:  # a lone surrogate
        possible = False
    if outside or not possible:
        raise InputError(
            f"{source}: expected names of images inside the data folder, found {name[:200]!r}"
        )
    return path


class Fence:
    """The folders that links of a list's images may lead to."""

    def __init__(self, bases: Iterable[AnyPath], source: object) -> None:
        """Allows the real paths of `bases` and of MIXVPR_LINKED_FOLDERS; errors name `source`."""
        named = os.environ.get(VARIABLE, "").split(os.pathsep)
        linked = map(os.path.expanduser, filter(None, named))
        self.source = source
        self.allowed = {Path(os.path.realpath(folder)) for folder in (*bases, *linked)}

    def require(self, link: AnyPath) -> None:
        """Refuses a link that leads out of the allowed folders and its own.

        Raises:
            InputError: The line says where it leads and how to allow that.
        """
        real, folder = Path(os.path.realpath(link)), Path(os.path.realpath(link.parent))
        if not any(map(real.is_relative_to, (folder, *self.allowed))):
            raise InputError(
                f"{self.source}: expected {link} inside the data folder, found a link to {real}; "
                f"if it is yours, name the folder that it leads to in {VARIABLE}"
            )


@dataclass(frozen=True)
class Located:
    """The n images of a list, existing or expected; `present` [n] bool says which exist."""

    paths: tuple[AnyPath, ...]
    present: np.ndarray


def locate(bases: Sequence[AnyPath], names: Sequence[str], source: AnyPath) -> Located:
    """Finds the images of a list below whichever base folder holds most of them.

    An image in another format counts: Tokyo 24/7 lists .jpg but contains .png.

    Args:
        bases: Folders that the names may be relative to, the likeliest first.
        names: Relative paths.
        source: The file that lists them, for the error line.

    Raises:
        InputError: A name or a link leads out of the folder.
    """
    relative = [inside(name, source) for name in names]
    folders = _Folders(Fence(bases, source))
    sample = relative[:: max(len(relative) // _SAMPLE, 1)]
    hits = [sum(folders.find(base / path) is not None for path in sample) for base in bases]
    base = bases[int(np.argmax(hits))]
    found = [folders.find(base / path) for path in relative]
    paths = tuple(file or base / path for file, path in zip(found, relative, strict=True))
    return Located(paths, np.array([file is not None for file in found], bool))


def frames_near(paths: Sequence[PurePath], frames: int) -> list[list[int]]:
    """For each photo the indices of those up to so many frames before and after it, and its own.

    Frames are a folder's photos in the order of their names, of which a position, @east@north@,
    is no part: by time where all are Unix times or seconds, else with numbers by value.

    Raises:
        InputError: Names that hold a position, and nothing else that orders them.
    """
    folders: dict[PurePath, list[int]] = {}
    for index, path in enumerate(paths):
        folders.setdefault(path.parent, []).append(index)
    near: list[list[int]] = [[]] * len(paths)
    for members in folders.values():
        order = _in_order([paths[index] for index in members])
        for place, member in enumerate(order):
            some = order[max(place - frames, 0) : place + frames + 1]
            near[members[member]] = [members[other] for other in some]
    return near


def _in_order(paths: Sequence[PurePath]) -> list[int]:
    """The indices of frames, first to last."""
    times, names = zip(*(_frame(path.stem) for path in paths), strict=True)
    keys = list(zip(_comparable(times), map(by_value, names), strict=True))
    order = sorted(range(len(paths)), key=keys.__getitem__)
    for one, other in pairwise(order):
        if paths[one].name.startswith("@") and keys[one] == keys[other]:
            raise InputError(
                f"{paths[one]}: expected a frame's number or time after the position in each "
                "name (@utm_east@utm_north@frame@), by which frames are ordered, found none that "
                f"tells it from {paths[other].name}"
            )
    return order


def _frame(stem: str) -> tuple[str, str]:
    """A frame's time or number, by its name, and what else tells it from others."""
    if not stem.startswith("@"):
        return stem, ""
    fields = stem.split("@")
    if len(fields) >= DOWNLOADER_FIELDS:  # timestamp; pano_id, tile_num and note
        return fields[13], "@".join(fields[i] for i in (7, 8, 14))
    return _ZONE.sub("", "@".join(fields[3:])).strip("@"), ""


def _comparable(texts: Sequence[str]) -> list[Any]:
    """What orders frames: seconds as Python writes them, where all are; else numbers by value."""
    seconds = [unix_seconds(text) for text in texts]
    if None not in seconds:
        return seconds
    if all(re.fullmatch(r"\d+\.(0|\d*[1-9])", text, re.ASCII) for text in texts):
        return list(map(float, texts))
    return list(map(by_value, texts))


def by_value(name: str) -> list[object]:
    """What names sort by: frame2 comes before frame10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


class _Folders:
    """Cached listings: one listing costs less than a stat of each image."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence
        self._listed: dict[AnyPath, dict[str, dict[str, bool]]] = {}  # folder, stem, name: a link?

    def find(self, path: AnyPath) -> AnyPath | None:
        """The image of this name, or else the first with the same stem in another format."""
        folder = path.parent
        if folder not in self._listed:
            by_stem = self._listed[folder] = {}
            for name, is_link in links_in(folder).items():
                by_stem.setdefault(PurePosixPath(name).stem, {})[name] = is_link
        links = self._listed[folder].get(path.stem, {})
        if path.name not in links:
            others = [name for name in links if Path(name).suffix.lower() in IMAGE_SUFFIXES]
            if not others:
                return None
            path = folder / min(others)
        if links[path.name]:
            self._fence.require(path)
        return path


def write_csv(file: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes a table, whose names of files may be of any encoding."""
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text:
        csv.writer(text).writerows(rows)
