"""Descriptors that were computed before: a folder for each content, a file for each chunk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import stamps_in
from mixvpr_jax.storage import AnyPath, atomic_write

logger = logging.getLogger(__name__)

# What NumPy raises for an .npz file that is cut or whose bits have flipped.
DAMAGED = (ValueError, KeyError, EOFError, NotImplementedError, BadZipFile, zlib.error)
MARK = "mixvpr_jax_descriptors"  # a file in each folder: what is in there is ours to remove
# Files and folders of the package that pixels and descriptors depend on.
SOURCES = (
    *("preprocess.py", "orientation.py", "evaluation/describe.py", "evaluation/reading.py"),
    *("models", "export"),
)
_KEY = re.compile(r"[0-9a-f]{32}")
_CHUNK = r"\d{8,}-\d{8,}\.npz"
_OWN_FILE = re.compile(rf"{MARK}|{_CHUNK}|\.{_CHUNK}\..*partial")


class Part(NamedTuple):
    """What was made of m consecutive images.

    Attributes:
        values: [m, …], pixels or descriptors; zeros where an image could not be read.
        reasons: [m] texts, why it could not; "" where it could.
        turned: [m] bool, whether its EXIF orientation turned it.
    """

    values: np.ndarray
    reasons: np.ndarray
    turned: np.ndarray


class OneWarning:
    """Warns once that the cache is unusable; the evaluation continues without it."""

    given = False

    def __call__(self, error: Exception) -> None:
        """Warns, unless it did before."""
        if not self.given:
            logger.warning(
                "descriptors are not cached: %s; set MIXVPR_HOME to a folder that can be written, "
                "or give --cache-gigabytes 0",
                error,
            )
        self.given = True


class DescriptorCache:
    """The chunks of one list of images; what is not whole counts as absent."""

    def __init__(self, folder: Path, warn: Callable[[Exception], None] | None = None) -> None:
        """Opens the folder of a `content_key`, which need not exist."""
        self.folder, self._warn, self._can_save = folder, warn or OneWarning(), True
        with suppress(OSError):  # another user's, or a read-only disk
            os.utime(folder)  # `prune` removes the least recently used

    def load(self, rows: slice) -> Part | None:
        """What was saved of these images."""
        path = self._file(rows)
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                part = Part(*(file[name] for name in ("descriptors", "reasons", "turned")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._warn(error)
            return None
        except DAMAGED as error:
            logger.warning("computed again: %s: %s", path, error)
            return None
        lengths = {array.shape[:1] for array in part}
        return part if lengths == {(rows.stop - rows.start,)} else None

    def save(self, rows: slice, part: Part) -> None:
        """Keeps the descriptors of these images, whole or not at all."""
        if not self._can_save:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MARK).touch()
            with atomic_write(self._file(rows)) as temporary, temporary.open("wb") as file:
                reasons = part.reasons.astype(str)  # objects would be pickled
                np.savez(file, descriptors=part.values, reasons=reasons, turned=part.turned)
        except (InputError, OSError) as error:  # InputError: the disk is full
            self._can_save = False
            self._warn(error)

    def _file(self, rows: slice) -> Path:
        return self.folder / f"{rows.start:08d}-{rows.stop:08d}.npz"


@cache
def code_hash() -> str:
    """SHA-256 of SOURCES: descriptors of code that was mended since are no longer right."""
    digest = hashlib.sha256()
    for source in map(files("mixvpr_jax").joinpath, SOURCES):
        members = source.iterdir() if source.is_dir() else [source]
        for file in sorted(members, key=lambda file: file.name):
            if file.name.endswith(".py"):
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def content_key(weights: str, paths: Sequence[AnyPath], how: Mapping[str, Any]) -> str:
    """What descriptors depend on, as the name of a folder.

    Args:
        weights: The hash of the model's weights.
        paths: The images. Of a file, path, size, inode and the times when its content and its
            inode changed count (nobody can set the latter); of an object, its generation. One that
            is not there has a key, too: what reads it says so, or leaves it out.
        how: Everything else: model, preprocessing, dtype, device, batches; plain JSON values.
    """
    digest = hashlib.sha256(json.dumps([weights, how], sort_keys=True).encode())
    listed: dict[AnyPath, Mapping[str, str]] = {}
    for path in paths:
        stamp, name = None, path
        if isinstance(path, Path):
            name = path.absolute()
            with suppress(OSError):  # a dangling link, or one to itself
                found = path.stat()
                times = f"{found.st_mtime_ns} {found.st_ctime_ns}"
                stamp = f"{found.st_size} {times} {found.st_ino}"
        else:  # a folder at a time: a request each would take as long as describing them
            if path.parent not in listed:
                listed[path.parent] = stamps_in(path.parent)
            stamp = listed[path.parent].get(path.name)
        digest.update(f"\n{stamp} ".encode() + os.fsencode(name))
    return digest.hexdigest()[:32]


def prune(root: Path, limit_bytes: float) -> None:
    """Removes the least recently used folders, until the rest is within the limit.

    Only what the cache wrote counts, and is removed. Other processes may be at work in there.

    Raises:
        OSError: The cache cannot be read, or not be written.
    """
    ours = []
    for folder in root.iterdir() if root.is_dir() else ():
        if _KEY.fullmatch(folder.name) and not folder.is_symlink():
            with suppress(OSError):  # a file, another user's folder, or just removed
                files = list(folder.iterdir())
                own = [file for file in files if _OWN_FILE.fullmatch(file.name)]
                # A version that left no mark left chunks alone.
                if own and (len(own) == len(files) or folder / MARK in own):
                    size = sum(file.stat().st_size for file in own)
                    ours.append((folder.stat().st_mtime, folder, size, own))
    total = 0
    for _, folder, size, own in sorted(ours, reverse=True):
        total += size
        if total > limit_bytes:
            for file in sorted(own, key=lambda file: file.name == MARK):  # the mark last
                if file.is_dir():  # of a writer that was killed
                    shutil.rmtree(file, ignore_errors=True)
                else:
                    file.unlink(missing_ok=True)
            with suppress(OSError):  # there is something else
                folder.rmdir()
