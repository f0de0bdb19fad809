"""Descriptors that were computed before: a folder for each content, a file for each chunk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import stamps_in
from mixvpr_jax.storage import AnyPath, atomic_write

logger = logging.getLogger(__name__)

MARK = "mixvpr_jax_descriptors"  # a file in each folder: what is in there is ours to remove
_KEY = re.compile(r"[0-9a-f]{32}")
_OWN_FILES = tuple(
    re.compile(pattern)
    for pattern in (MARK, r"\d{8,}-\d{8,}\.npz", r"\.\d{8,}-\d{8,}\.npz\..*partial")
)


@dataclass(frozen=True)
class Part:
    """Descriptors of m consecutive images.

    Attributes:
        descriptors: [m, d], a row an image; zeros where it could not be read.
        reasons: Why it could not, a line an image; "" where it could.
        turned: Whether its EXIF orientation turned it, of each image.
    """

    descriptors: np.ndarray
    reasons: tuple[str, ...]
    turned: tuple[bool, ...]


class OneWarning:
    """Warns once that the cache is unusable; the evaluation continues without it."""

    def __init__(self) -> None:
        """Nothing has gone wrong yet."""
        self._given = False

    def __call__(self, error: Exception) -> None:
        """Warns, unless it did before."""
        if not self._given:
            logger.warning(
                "descriptors are not cached: %s; set MIXVPR_HOME to a folder that can be written, "
                "or give --cache-gigabytes 0",
                error,
            )
        self._given = True


class DescriptorCache:
    """The chunks of one list of images; what is not whole counts as absent."""

    def __init__(self, folder: Path, warn: OneWarning | None = None) -> None:
        """Opens the folder of a `content_key`, which need not exist."""
        self.folder = folder
        self._warn = warn or OneWarning()
        self._can_save = True
        with suppress(OSError):  # of others, or on a disk that cannot be written
            os.utime(folder)  # `prune` removes what was not used for longest

    def load(self, rows: slice) -> Part | None:
        """What was saved of these images."""
        try:
            with self._file(rows).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                reasons, turned = (tuple(file[name].tolist()) for name in ("reasons", "turned"))
                part = Part(file["descriptors"], reasons, turned)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._warn(error)
            return None
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("computed again: %s: %s", self._file(rows), error)
            return None
        lengths = {len(part.descriptors), len(part.reasons), len(part.turned)}
        return part if lengths == {rows.stop - rows.start} else None

    def save(self, rows: slice, part: Part) -> None:
        """Keeps the descriptors of these images, whole or not at all."""
        if not self._can_save:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MARK).touch()
            with atomic_write(self._file(rows)) as temporary, temporary.open("wb") as file:
                reasons = np.array(part.reasons, str)
                turned = np.array(part.turned, bool)
                np.savez(file, descriptors=part.descriptors, reasons=reasons, turned=turned)
        except (InputError, OSError) as error:  # InputError: the disk is full
            self._can_save = False
            self._warn(error)

    def _file(self, rows: slice) -> Path:
        return self.folder / f"{rows.start:08d}-{rows.stop:08d}.npz"


def content_key(weights: str, paths: Sequence[AnyPath], how: Mapping[str, Any]) -> str:
    """What descriptors depend on, as the name of a folder.

    Args:
        weights: The hash of the model's weights.
        paths: The images. Of a file, path, size, inode and the times when its content and its
            inode changed count (nobody can set the latter); of an object, its generation.
        how: Everything else: model, preprocessing, dtype, device, batches; plain JSON values.

    Raises:
        InputError: An image that is not there.
    """
    digest = hashlib.sha256(json.dumps([weights, how], sort_keys=True).encode())
    listed: dict[AnyPath, Mapping[str, str]] = {}
    for path in paths:
        if isinstance(path, Path):
            stamp, name = _stamp(path), path.absolute()
        else:  # a folder at a time: a request each would take as long as describing them
            if path.parent not in listed:
                listed[path.parent] = stamps_in(path.parent)
            stamp, name = listed[path.parent].get(path.name), path
        if stamp is None:
            raise InputError(f"{path}: expected an image, found no such file")
        digest.update(f"\n{stamp} ".encode() + os.fsencode(name))
    return digest.hexdigest()[:32]


def _stamp(path: Path) -> str | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def weights_hash(weights: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of named arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def prune(root: Path, limit_bytes: float) -> None:
    """Removes what was not used for longest, until the rest is within the limit.

    Only what the cache wrote counts, and is removed.

    Raises:
        OSError: The cache cannot be read, or not be written.
    """
    if not root.is_dir():
        return
    total = 0
    for folder in sorted(filter(_is_ours, root.iterdir()), key=_last_used, reverse=True):
        with suppress(FileNotFoundError):  # another process may just be at it
            total += sum(file.stat().st_size for file in folder.iterdir() if _is_own_file(file))
            if total > limit_bytes:
                _remove(folder)


def _is_ours(folder: Path) -> bool:
    """By its mark; or, of a version that left none, by the names of all that is in it."""
    if not _KEY.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    try:
        files = list(folder.iterdir())
    except OSError:  # another's; or another process has just removed it
        return False
    marked = any(file.name == MARK for file in files)
    return marked or (bool(files) and all(map(_is_own_file, files)))


def _is_own_file(file: Path) -> bool:
    return any(pattern.fullmatch(file.name) for pattern in _OWN_FILES)


def _remove(folder: Path) -> None:
    """The cache's own files, and the folder if nothing else is in it; the mark last."""
    for file in sorted(filter(_is_own_file, folder.iterdir()), key=lambda file: file.name == MARK):
        if file.is_dir():  # of a writer that was killed
            shutil.rmtree(file, ignore_errors=True)
        else:
            file.unlink(missing_ok=True)
    with suppress(OSError):  # there is something else
        folder.rmdir()


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
