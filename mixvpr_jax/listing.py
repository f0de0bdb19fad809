"""Listing folders of images, finding the images of a list in them, tables and arrays of images."""

from __future__ import annotations

import csv
import errno
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np

from mixvpr_jax.errors import InputError, what_else
from mixvpr_jax.storage import AnyPath, is_local, reaching, store_of

# Usual suffixes of `preprocess.FORMATS`.
IMAGE_SUFFIXES = frozenset({
    ".bmp", ".dib", ".gif", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".webp", ".mpo", ".jps", ".insp",
})  # fmt: skip

# No folder has that name, or can have it.
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
VARIABLE = "MIXVPR_LINKED_FOLDERS"
UTF_16_MARKS = b"\xff\xfe", b"\xfe\xff"
_SAMPLE = 64  # names that decide which folder a list is relative to


def links_in(folder: AnyPath) -> Mapping[str, bool]:
    """Name → whether it is a link, for every entry of a folder; empty if there is none."""
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
    """A listed name as a relative path that stays inside its folder, unless through links."""
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
        """Refuses a link that leads out of the allowed folders and its own."""
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
    """Finds the images of a list below whichever base folder, likeliest first, holds most of them.

    An image in another format counts: Tokyo 24/7 lists .jpg but contains .png. Errors name
    `source`, the file that lists them.
    """
    relative = [inside(name, source) for name in names]
    folders = _Folders(Fence(bases, source))
    hits = folders.count(bases, relative[:: max(len(relative) // _SAMPLE, 1)])
    if not any(hits) and is_local(bases[0]):  # a small part, perhaps; stores take long to say so
        hits = folders.count(bases, relative)
    base = bases[int(np.argmax(hits))]
    found = [folders.find(base / path) for path in relative]
    paths = tuple(file or base / path for file, path in zip(found, relative, strict=True))
    return Located(paths, np.array([file is not None for file in found], bool))


class _Folders:
    """Cached listings: one listing costs less than a stat of each image."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence
        self._listed: dict[AnyPath, tuple[AnyPath, _ByStem]] = {}

    def find(self, path: AnyPath) -> AnyPath | None:
        """The image of this name, or else the first with the same stem in another format."""
        folder, by_stem = self._list(path.parent)
        links, name = by_stem.get(composed(path.stem), {}), path.name
        if name not in links:
            others = [other for other in links if Path(other).suffix.lower() in IMAGE_SUFFIXES]
            if not others:
                return None
            name = min(others, key=lambda other: (composed(other) != composed(name), other))
        if links[name]:
            self._fence.require(folder / name)
        return folder / name

    def count(self, bases: Sequence[AnyPath], paths: Sequence[PurePosixPath]) -> list[int]:
        """How many of these images are below each folder."""
        by_parent: dict[PurePosixPath, list[str]] = {}
        for path in paths:
            by_parent.setdefault(path.parent, []).append(path.name)
        return [
            sum(
                self.find(base / parent / name) is not None
                for parent, names in by_parent.items()
                if self._list(base / parent)[1]
                for name in names
            )
            for base in bases
        ]

    def _list(self, folder: AnyPath) -> tuple[AnyPath, _ByStem]:
        """A folder by its name on the disk, and what lies in it."""
        if folder not in self._listed:
            real, by_stem = folder, _ByStem()
            if not (links := links_in(real)) and not str(folder).isascii():
                parent, beside = self._list(folder.parent)
                names = beside.get(composed(folder.stem), {})
                real = next(
                    (parent / n for n in names if composed(n) == composed(folder.name)), real
                )
                links = links_in(real)
            for name, is_link in links.items():
                by_stem.setdefault(composed(PurePosixPath(name).stem), {})[name] = is_link
            self._listed[folder] = real, by_stem
        return self._listed[folder]


_ByStem = dict[str, dict[str, bool]]
"""Stem → name → whether it is a link."""


def composed(name: str) -> str:
    """A name whose letters and accents are one character each (NFC); macOS may write two."""
    return unicodedata.normalize("NFC", name)


def read_text(file: AnyPath, what: str = "text") -> str:
    """A file's text in UTF-8, or in UTF-16 with a byte order mark, as PowerShell's `>` writes it.

    The mark, with which Excel and Windows begin UTF-8, too, is left out.
    """
    data = file.read_bytes()
    try:
        return data.decode("utf-16" if data.startswith(UTF_16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as error:
        found = what_else(data[:512]) or error
        raise InputError(f"{file}: expected {what} in UTF-8, found {found}") from None


def write_csv(file: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes a table, whose names of files may be of any encoding."""
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text:
        csv.writer(text).writerows(rows)


def write_array(file: Path, array: np.ndarray) -> None:
    """Writes an .npy, through Python's buffer: NumPy's own writing ignores a failed last flush."""
    with file.open("w+b") as opened:
        np.save(opened, array)
