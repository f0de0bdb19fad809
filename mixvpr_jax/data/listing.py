"""What lies in a folder of images, by one request: on a disk or in an object store."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import FORMATS
from mixvpr_jax.stores import AnyPath, is_local, reaching

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
