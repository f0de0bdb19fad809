"""What the generator drew before: the only files that it may replace.

Each photo that it draws bears a mark, and a table is its own if it lists such a photo. Real photos
have the same names, and a folder of real ones may be named by mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mixvpr_jax.errors import InputError

MARK = b"drawn by mixvpr_jax.data.draw"  # a comment at the start of a JPEG
MARK_WITHIN_BYTES = 256
PANOID_LENGTH = 22


def photos_drawn_before(
    folders: Iterable[Path], own_name: re.Pattern[str], overwrite: bool
) -> list[Path]:
    """The photos in these folders that a new drawing replaces.

    Args:
        folders: Where it draws; one that is not there holds nothing.
        own_name: What its photos are called. Files of other names stay.
        overwrite: Whether anything may be replaced.

    Raises:
        InputError: There are files and nothing may be replaced, or photos without the mark.
    """
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    files = [file for file in files if not file.name.startswith(".")]
    if files and not overwrite:
        raise _refused(files[0].parent, "an empty folder", files[0].name)
    photos = [file for file in files if own_name.fullmatch(file.name)]
    for photo in photos:
        if not _is_marked(photo):
            raise _not_drawn(photo)
    return photos


def check_table(table: Path, photos: Iterable[Path], overwrite: bool) -> None:
    """Refuses to replace a table that lists none of the photos that were drawn before.

    Raises:
        InputError: It does not, or nothing may be replaced.
    """
    if not table.exists():
        return
    if not overwrite:
        raise _refused(table.parent.parent, "no such table", table.name)
    text = table.read_text(encoding="utf-8", errors="replace")
    if not any(photo.stem[-PANOID_LENGTH:] in text for photo in photos):
        raise _not_drawn(table)


def _is_marked(photo: Path) -> bool:
    try:
        with photo.open("rb") as file:
            return MARK in file.read(MARK_WITHIN_BYTES)
    except OSError:
        return False


def _refused(folder: Path, expected: str, found: str) -> InputError:
    return InputError(
        f"{folder}: expected {expected}, found {found}; --overwrite (overwrite=True) replaces what "
        "was drawn before"
    )


def _not_drawn(file: Path) -> InputError:
    return InputError(
        f"{file}: expected a file that this command drew, found one without its mark; draw into "
        "another folder (what an older version drew has no mark, either: remove that first)"
    )
