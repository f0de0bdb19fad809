"""Whether a folder or files may be written, asked before hours of work."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath, reaching, resolved


def require_writable(folder: AnyPath, use: str) -> None:
    """Raises InputError if no file can be created in a folder or its nearest existing parent.

    The line says what is to lie in it: `use`, such as "the model".
    """
    for path in (folder, *folder.parents) if isinstance(folder, Path) else ():
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"{folder}: expected a folder to write, found a link to {path.readlink()}, which "
                "is not there; make it, or choose another folder"
            )
    with reaching(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: expected a folder for {use}, found a file; choose another")
    try:
        if isinstance(folder, Path):
            there = next(parent for parent in (folder, *folder.parents) if parent.exists())
            with tempfile.TemporaryFile(dir=there):
                return
        probe = folder / f".{secrets.token_hex(16)}"
        with reaching(folder):
            probe.write_bytes(b"")
            probe.unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder that can be written to, found: {error.strerror}; fix "
            "that or choose another folder"
        ) from None


def require_free(
    files: Sequence[AnyPath], use: str, *, overwrite: bool, sources: Sequence[AnyPath] = ()
) -> None:
    """Raises InputError where files of one folder, for a `use`, cannot be written, or may not be.

    Earlier files may be replaced if `overwrite`, but never `sources`, which are read.
    """
    folder, read = files[0].parent, set(map(resolved, sources))
    require_writable(folder, use)
    with reaching(folder):
        there = [file for file in files if file.exists()]
        for file in there:
            if file.is_dir():
                raise InputError(f"{file}: expected a file to write, found a folder; rename one")
    for file in files:
        if resolved(file) in read:
            raise InputError(f"{file}: expected another file than those to read; choose another")
    if there and not overwrite:
        names = ", ".join(file.name for file in there)
        raise InputError(
            f"{folder}: expected no earlier output, found {names}; choose another name or give "
            "--overwrite"
        )
