"""Descriptors that were computed before: a folder for each content, a file for each chunk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixvpr_jax.data.listing import stamps_in
from mixvpr_jax.errors import InputError
from mixvpr_jax.files import beside
from mixvpr_jax.stores import AnyPath

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Descriptors of consecutive images.

    Attributes:
        descriptors: [m, d], a row an image; zeros where it could not be read.
        reasons: Why it could not, a line an image; "" where it could.
    """

    descriptors: np.ndarray
    reasons: tuple[str, ...]


class DescriptorCache:
    """The chunks of one list of images; what is not whole counts as absent."""

    def __init__(self, folder: Path) -> None:
        """Opens the folder of a `content_key`, which need not exist."""
        self.folder = folder
        if folder.is_dir():
            os.utime(folder)  # `prune` removes what was not used for longest

    def load(self, rows: slice) -> Part | None:
        """What was saved of these images."""
        try:
            with self._file(rows).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                part = Part(file["descriptors"], tuple(file["reasons"].tolist()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("computed again: %s: %s", self._file(rows), error)
            return None
        return (
            part if len(part.descriptors) == len(part.reasons) == rows.stop - rows.start else None
        )

    def save(self, rows: slice, part: Part) -> None:
        """Keeps the descriptors of these images, whole or not at all."""
        with beside(self._file(rows)) as temporary, temporary.open("wb") as file:
            np.savez(file, descriptors=part.descriptors, reasons=np.array(part.reasons, str))

    def _file(self, rows: slice) -> Path:
        return self.folder / f"{rows.start:08d}-{rows.stop:08d}.npz"


def content_key(weights: str, paths: Sequence[AnyPath], how: Mapping[str, Any]) -> str:
    """What descriptors depend on, as the name of a folder.

    Args:
        weights: The hash of the model's weights.
        paths: The images, of which path, size and time of change count.
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
    return f"{found.st_size} {found.st_mtime_ns}"


def weights_hash(weights: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of named arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def prune(root: Path, limit_bytes: float) -> None:
    """Removes what was not used for longest, until the rest is within the limit."""
    total = 0
    for folder in sorted(filter(Path.is_dir, root.glob("*")), key=_last_used, reverse=True):
        with suppress(FileNotFoundError):  # another process may just be at it
            total += sum(file.stat().st_size for file in folder.iterdir())
        if total > limit_bytes:
            shutil.rmtree(folder, ignore_errors=True)


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
