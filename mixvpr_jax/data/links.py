"""Names in lists, and links among the images that they name: how far either may lead.

A list or table may be anybody's, and so may the archive that it came in. So a listed name stays in
the folder that it is relative to, and a listed image that is itself a link leads to another place
in the data folder. Folders that are links are the user's way to lay data sets over several disks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from mixvpr_jax.data.listing import IMAGE_SUFFIXES, links_in
from mixvpr_jax.errors import InputError
from mixvpr_jax.stores import AnyPath

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
