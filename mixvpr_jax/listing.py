"""What lies in a folder of images, by one request: on a disk or in an object store."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import FORMATS
from mixvpr_jax.storage import AnyPath, is_local, reaching

# The usual endings of the formats that are read.
_ENDINGS = {
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
IMAGE_SUFFIXES = frozenset(ending for name in FORMATS for ending in _ENDINGS.get(name, ()))
# Photos all the same: of phones, of cameras (raw), and of newer or rarer formats.
UNREAD_SUFFIXES = (
    frozenset({
        ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx",
        ".jpm", ".jxr", ".jls", ".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw",
        ".arw", ".sr2", ".srf", ".raf", ".orf", ".rw2", ".rwl", ".pef", ".srw", ".3fr",
        ".iiq", ".erf", ".kdc", ".dcr", ".mrw", ".mef", ".mos", ".x3f", ".gpr",
    })
    - IMAGE_SUFFIXES
)  # fmt: skip

# There is no folder of that name, and there can be none.
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def links_in(folder: AnyPath) -> Mapping[str, bool]:
    """What lies in a folder, by name: whether it is a link; nothing where there is no such folder.

    Raises:
        InputError: An object store whose library is not installed.
        OSError: It cannot be listed.
    """
    try:
        if not is_local(folder):
            return dict.fromkeys((_last(entry["name"]) for entry in _remote(folder)), False)
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries}
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in _NO_FOLDER:
            return {}
        raise


def sizes_in(folder: AnyPath) -> Mapping[str, int]:
    """The bytes of each file in a folder, by name.

    Raises:
        InputError: An object store whose library is not installed.
        FileNotFoundError: No such folder.
    """
    if is_local(folder):
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    found = _remote(folder)
    return {_last(entry["name"]): entry["size"] for entry in found if entry["type"] == "file"}


def stamps_in(folder: AnyPath) -> Mapping[str, str]:
    """What tells one state of each object in a folder of a store from another, by name."""
    with reaching(folder):
        found = _remote(folder)
    return {
        _last(e["name"]): f"{e['size']} {e.get('generation')}" for e in found if e["type"] == "file"
    }


def folders_in(folder: AnyPath) -> list[str]:
    """The folders in a folder, by name; none where it cannot be listed."""
    return _of_type(folder, "directory")


def files_in(folder: AnyPath) -> list[str]:
    """The files in a folder, by name; none where it cannot be listed."""
    return _of_type(folder, "file")


def files_below(folder: AnyPath) -> list[str]:
    """The objects in a folder of a store at any depth, by names relative to it."""
    store, path = _store(folder)
    with reaching(folder):
        return [name.removeprefix(path).lstrip("/") for name in store.find(path)]


def _of_type(folder: AnyPath, kind: str) -> list[str]:
    try:
        if not is_local(folder):
            return [_last(entry["name"]) for entry in _remote(folder) if entry["type"] == kind]
        with os.scandir(folder) as entries:
            return [e.name for e in entries if (e.is_dir if kind == "directory" else e.is_file)()]
    except OSError:
        return []


def _remote(folder: AnyPath) -> list[dict[str, Any]]:
    store, path = _store(folder)
    return store.ls(path, detail=True)


def _store(folder: AnyPath) -> tuple[Any, str]:
    import fsspec

    try:
        # Kept listings would take a gigabyte for the images of GSV-Cities.
        return fsspec.url_to_fs(os.fspath(folder), use_listings_cache=False)
    except ImportError as error:
        raise InputError(f"{folder}: {error}") from None


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


VARIABLE = "MIXVPR_LINKED_FOLDERS"
_SAMPLE = 64  # names that tell which folder a list is relative to


def inside(name: str, source: object) -> PurePosixPath:
    """A listed name as a path that stays in the folder it is relative to, links aside.

    Raises:
        InputError: It is absolute, goes up by `..`, is no name of a file, or none that can be.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive
    if outside or not path.name or "\0" in name or not _can_be(name):
        raise InputError(
            f"{source}: expected names of images inside the data folder, found {name[:200]!r}"
        )
    return path


def _can_be(name: str) -> bool:
    try:
        return len(os.fsencode(name)) < 4096
    except UnicodeEncodeError:  # half of a character
        return False


class Fence:
    """Around the folders that a list's names are relative to, wherever those really lie."""

    def __init__(self, bases: Iterable[AnyPath], source: object) -> None:
        """Around these folders, for an error that begins with what lists the names."""
        linked = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
        self.source = source
        self.allowed = {Path(os.path.realpath(folder)) for folder in (*bases, *linked)}

    def require(self, link: AnyPath) -> None:
        """Refuses an image that is a link out of these folders and of the one that it lies in.

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
    """Files for a list of names.

    Attributes:
        paths: n files; where one is missing, what it would be called.
        present: [n] bool.
    """

    paths: tuple[AnyPath, ...]
    present: np.ndarray


def locate(bases: Sequence[AnyPath], names: Sequence[str], source: AnyPath) -> Located:
    """Finds the images of a list, below that of several folders which holds most of them.

    An image of another type counts: Tokyo 24/7 lists .jpg and is made of .png.

    Args:
        bases: Folders that the names may be relative to, the likeliest first.
        names: Relative paths.
        source: The file that lists them, for the error line.

    Raises:
        InputError: A name is no path inside the folder, or an image is a link that leads outside.
    """
    relative = [inside(name, source) for name in names]
    folders = _Folders(Fence(bases, source))
    sample = relative[:: max(len(relative) // _SAMPLE, 1)]
    hits = [sum(folders.find(base / path) is not None for path in sample) for base in bases]
    base = bases[int(np.argmax(hits))]
    found = [folders.find(base / path) for path in relative]
    paths = tuple(there or base / path for there, path in zip(found, relative, strict=True))
    return Located(paths, np.array([there is not None for there in found], bool))


class _Folders:
    """What folders hold: one listing costs less than a look at each of its images."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence
        self._listed: dict[AnyPath, Mapping[str, bool]] = {}
        self._by_stem: dict[AnyPath, dict[str, list[str]]] = {}

    def find(self, path: AnyPath) -> AnyPath | None:
        """The image of this name, or else the first of the same name in another format."""
        folder = path.parent
        if folder not in self._listed:
            self._listed[folder] = links_in(folder)
            self._by_stem[folder] = _names_by_stem(self._listed[folder])
        names = self._by_stem[folder].get(path.stem, [])
        if path.name not in names:
            others = sorted(name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)
            if not others:
                return None
            path = folder / others[0]
        if self._listed[folder][path.name]:
            self._fence.require(path)
        return path


def _names_by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(PurePosixPath(name).stem, []).append(name)
    return by_stem
