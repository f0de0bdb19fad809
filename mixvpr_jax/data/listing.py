"""What lies in a folder of images, by one request: on a disk or in an object store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from mixvpr_jax.errors import InputError


def names_in(folder: epath.Path) -> list[str]:
    """The names of what lies in a folder; none where there is no such folder.

    Raises:
        InputError: An object store whose library is not installed.
    """
    try:
        if is_local(folder):
            return os.listdir(folder)  # noqa: PTH208 - half a million paths take their time
        return [_last(entry["name"]) for entry in _remote(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def sizes_in(folder: epath.Path) -> Mapping[str, int]:
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


def is_local(folder: epath.Path) -> bool:
    """Whether a folder lies on a disk, not in an object store."""
    return "://" not in os.fspath(folder)


def _remote(folder: epath.Path) -> list[dict[str, Any]]:
    import fsspec

    try:
        # Kept listings would take a gigabyte for the images of GSV-Cities.
        store, path = fsspec.url_to_fs(os.fspath(folder), use_listings_cache=False)
    except ImportError as error:
        raise InputError(f"{folder}: {error}") from None
    return store.ls(path, detail=True)


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
