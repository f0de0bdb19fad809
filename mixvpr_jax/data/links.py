"""Names in lists, and links among the images that they name: how far either may lead.

A list or table may be anybody's, and so may the archive that it came in. So a listed name stays in
the folder that it is relative to, and a listed image that is itself a link leads to another place
in the data folder. Folders that are links are the user's way to lay data sets over several disks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from mixvpr_jax.errors import InputError
from mixvpr_jax.stores import AnyPath

VARIABLE = "MIXVPR_LINKED_FOLDERS"


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
