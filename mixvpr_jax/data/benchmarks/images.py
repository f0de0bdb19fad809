"""From the names in a benchmark's lists to files, and what becomes of those that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mixvpr_jax.data.evaluation_set import EvaluationSet
from mixvpr_jax.data.folders import IMAGE_SUFFIXES
from mixvpr_jax.data.links import Fence, inside
from mixvpr_jax.data.listing import links_in
from mixvpr_jax.stores import AnyPath

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

    def missing(self) -> list[AnyPath]:
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
