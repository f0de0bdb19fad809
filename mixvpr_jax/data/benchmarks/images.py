"""From the names in a benchmark's lists to files, and what becomes of those that are missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from mixvpr_jax.data.evaluation_set import EvaluationSet
from mixvpr_jax.data.folders import IMAGE_SUFFIXES
from mixvpr_jax.errors import InputError

_SAMPLE = 64  # names that tell which folder a list is relative to


@dataclass(frozen=True)
class Found:
    """A benchmark as its lists have it, and which of the images are there.

    Attributes:
        whole: With every image listed, missing ones too.
        database_present: [n] bool.
        queries_present: [q] bool.
    """

    whole: EvaluationSet
    database_present: np.ndarray
    queries_present: np.ndarray

    @classmethod
    def complete(cls, whole: EvaluationSet) -> Found:
        """What was listed from the disk: nothing can be missing."""
        return cls(whole, np.ones(len(whole.database), bool), np.ones(len(whole.queries), bool))

    def missing(self) -> list[Path]:
        """The images that are not there, database first."""
        images = (*self.whole.database, *self.whole.queries)
        present = np.concatenate([self.database_present, self.queries_present])
        return [path for path, there in zip(images, present, strict=True) if not there]


@dataclass(frozen=True)
class Located:
    """Files for a list of names.

    Attributes:
        paths: n files; where one is missing, what it would be called.
        present: [n] bool.
    """

    paths: tuple[Path, ...]
    present: np.ndarray


def locate(bases: Sequence[Path], names: Sequence[str], source: Path) -> Located:
    """Finds the images of a list, below that of several folders which holds most of them.

    An image of another type counts: Tokyo 24/7 lists .jpg and is made of .png.

    Args:
        bases: Folders that the names may be relative to, the likeliest first.
        names: Relative paths.
        source: The file that lists them, for the error line.

    Raises:
        InputError: A name is no path inside the folder.
    """
    relative = [_inside(name, source) for name in names]
    folders = _Folders()
    sample = relative[:: max(len(relative) // _SAMPLE, 1)]
    hits = [sum(folders.find(base / path) is not None for path in sample) for base in bases]
    base = bases[int(np.argmax(hits))]
    found = [folders.find(base / path) for path in relative]
    paths = tuple(there or base / path for there, path in zip(found, relative, strict=True))
    return Located(paths, np.array([there is not None for there in found], bool))


class _Folders:
    """What folders hold: one listing costs less than a look at each of its images."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, list[str]]] = {}

    def find(self, path: Path) -> Path | None:
        """The image of this name, or else the first of the same name in another format."""
        folder = path.parent
        if folder not in self._names:
            self._names[folder] = _names_by_stem(folder)
        names = self._names[folder].get(path.stem, [])
        if path.name in names:
            return path
        others = sorted(name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)
        return folder / others[0] if others else None


def _names_by_stem(folder: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.setdefault(PurePosixPath(entry.name).stem, []).append(entry.name)
    except OSError:
        return {}
    return names


def _inside(name: str, source: Path) -> PurePosixPath:
    """The name as a path that cannot leave the folder it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive
    if outside or not path.name or "\0" in name:
        raise InputError(
            f"{source}: expected names of images inside the data folder, found {name!r}"
        )
    return path
