"""Folders of images, with positions in the file names or without.

A name such as `@0550123.45@4180345.67@…@.jpg` gives UTM east and north in metres, as
VPR-methods-evaluation and VPR-datasets-downloader write them. Only the file's own name is read:
an "@" in a parent folder means nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from etils import epath

from mixvpr_jax.data.listing import files_below
from mixvpr_jax.errors import InputError
from mixvpr_jax.stores import AnyPath, reaching

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

FARTHEST_M = 1e9  # more than any position has, in metres


@dataclass(frozen=True)
class ImageFolder:
    """The images below a folder, sorted by path.

    Attributes:
        root: The folder.
        paths: Every image below it, at any depth.
        utm: [n, 2] float64, east and north in metres; None where no name holds a position.
    """

    root: AnyPath
    paths: tuple[AnyPath, ...]
    utm: np.ndarray | None

    def select(self, kept: np.ndarray) -> ImageFolder:
        """Only the images where `kept` [n] bool holds."""
        paths = tuple(path for path, keep in zip(self.paths, kept, strict=True) if keep)
        return replace(self, paths=paths, utm=None if self.utm is None else self.utm[kept])


def read_folder(root: AnyPath) -> ImageFolder:
    """Lists a folder's images and reads the positions in their names.

    Raises:
        InputError: No such folder, no image in it, a position in some names only, or one that is
            no pair of numbers.
    """
    with reaching(root):
        if not root.is_dir():
            raise InputError(f"{root}: expected a folder of images, found no such folder")
    paths = tuple(sorted(_image_files(root) if isinstance(root, Path) else _image_objects(root)))
    if not paths:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{root}: expected images ({suffixes}), found none")
    return ImageFolder(root, paths, _positions(root, paths))


def _image_files(root: Path) -> Iterator[Path]:
    """By their names alone: one that cannot be read shall be reported, not passed over."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: expected a folder of images, {error.strerror}")

    ways: dict[str, frozenset[str]] = {}  # each folder and those it lies in, as they really are
    for folder, below, names in os.walk(root, onerror=refuse, followlinks=True):
        above = ways.pop(folder, frozenset()) | {os.path.realpath(folder)}
        below[:] = [name for name in below if os.path.realpath(Path(folder, name)) not in above]
        ways |= {os.path.join(folder, name): above for name in below}  # noqa: PTH118 - as os.walk
        for name in names:
            if _is_image(name):
                yield Path(folder, name)


def _image_objects(root: epath.Path) -> Iterator[epath.Path]:
    return (root / name for name in files_below(root) if _is_image(name.rpartition("/")[2]))


def _is_image(name: str) -> bool:
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _positions(root: AnyPath, paths: tuple[AnyPath, ...]) -> np.ndarray | None:
    labelled = [path for path in paths if path.name.startswith("@")]
    if not labelled:
        return None
    if len(labelled) < len(paths):
        unlabelled = next(path for path in paths if not path.name.startswith("@"))
        raise InputError(
            f"{root}: expected @utm_east@utm_north@ in every file name or in none, found it in "
            f"{len(labelled)} of {len(paths)}; without it, for one: {unlabelled}"
        )
    return np.array([_position(path) for path in paths], np.float64)


def _position(path: AnyPath) -> tuple[float, float]:
    try:
        east, north = (float(part) for part in path.name.split("@")[1:3])
    except ValueError:
        raise InputError(f"{path}: expected a name @utm_east@utm_north@…, in metres") from None
    if not (abs(east) <= FARTHEST_M and abs(north) <= FARTHEST_M):  # nor NaN
        raise InputError(f"{path}: expected metres on Earth in @utm_east@utm_north@")
    return east, north
