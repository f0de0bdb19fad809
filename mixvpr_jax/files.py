"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixvpr_jax.stores import AnyPath, put_file


@contextmanager
def beside(path: AnyPath) -> Iterator[Path]:
    """Gives a temporary path on a disk, which becomes `path` at the end; removed on failure.

    It lies next to `path` and is renamed to it, or its content becomes the object of that name.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            put_file(Path(folder, path.name), path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged(folder: AnyPath) -> Iterator[Path]:
    """Gives an empty folder on a disk whose files are moved into `folder` at the end.

    A `folder` that does not exist appears whole, by one renaming. Into one that exists the files
    are renamed one by one, from a temporary folder inside it (it may be a mount point, or the only
    place where one may write); into an object store they are copied one by one. On failure nothing
    is left behind.
    """
    if not isinstance(folder, Path):
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
            for file in sorted(Path(name).iterdir()):
                put_file(file, folder / file.name)
        return
    exists = folder.is_dir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    where = folder if exists else folder.parent
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=where))
    try:
        yield temporary
        if exists:
            for file in sorted(temporary.iterdir()):
                file.replace(folder / file.name)
        else:
            temporary.chmod(0o777 & ~_umask())  # mkdtemp made it private
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
