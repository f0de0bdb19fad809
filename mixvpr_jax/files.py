"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import errno
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from mixvpr_jax.errors import InputError
from mixvpr_jax.flock import MACHINE, Flock
from mixvpr_jax.stores import AnyPath, put_file

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.partial", re.DOTALL)
FORGOTTEN_SECONDS = 7 * 86400.0  # after which another machine removes them
_LOCK = "lock"  # names the machine of the writer, who holds it


class NoRoom(InputError):
    """A disk is full."""

    def __init__(self, path: AnyPath, reason: str) -> None:
        """What was being written, and what the system said."""
        super().__init__(
            f"{path}: expected room on the disk, found: {reason}; make room, and give the same "
            "command again"
        )
        self.reason = reason


class AppearedMeanwhile(InputError):
    """A folder that was to be made has been made by another process."""


@contextmanager
def beside(path: AnyPath) -> Iterator[Path]:
    """Gives a temporary path on a disk, which becomes `path` at the end; removed on failure.

    It lies in a folder next to `path` and is renamed to it, or its content becomes the object of
    that name.

    Raises:
        InputError: The disk is full.
    """
    with named_when_full(path):
        if not isinstance(path, Path):
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder, path.name)
                put_file(Path(folder, path.name), path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(path.parent, path.name) as folder:
            yield folder / path.name
            (folder / path.name).replace(path)


@contextmanager
def staged(folder: AnyPath) -> Iterator[Path]:
    """Gives an empty folder on a disk whose files are moved into `folder` at the end.

    A `folder` that does not exist appears whole, by one renaming. Into one that exists the files
    are renamed one by one, from a temporary folder inside it (it may be a mount point, or the only
    place where one may write); into an object store they are copied one by one. On failure nothing
    is left behind.

    Raises:
        AppearedMeanwhile: Another process has made `folder` since.
        InputError: The disk is full.
    """
    with named_when_full(folder):
        if not isinstance(folder, Path):
            with tempfile.TemporaryDirectory() as name:
                yield Path(name)
                for file in sorted(Path(name).iterdir()):
                    put_file(file, folder / file.name)
            return
        exists = folder.is_dir()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(folder if exists else folder.parent, folder.name) as temporary:
            files = temporary / "files"
            files.mkdir()
            yield files
            if exists:
                for file in sorted(files.iterdir()):
                    file.replace(folder / file.name)
            else:
                _rename_folder(files, folder)


@contextmanager
def named_when_full(path: AnyPath) -> Iterator[None]:
    """Names what is being written where a disk is full: errors of open files do not say.

    Where one is inside of another, the outer one names it: the inner may be a temporary file.

    Raises:
        NoRoom: The disk of `path` is full.
    """
    try:
        yield
    except NoRoom as error:
        raise NoRoom(path, error.reason) from error
    except InputError:
        raise
    except Exception as error:  # FAISS raises RuntimeError
        if (reason := _full(error)) is None:
            raise
        raise NoRoom(path, reason) from error


def _full(error: Exception) -> str | None:
    """What is said of a disk that is full; None of any other error."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return text if error.filename else error.strerror
        if re.fullmatch(r"\d+ requested and \d+ written", text):  # NumPy's words
            return text
    return text if "No space left on device" in text else None


def _rename_folder(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise AppearedMeanwhile(
            f"{target}: expected to make this folder, found one that another process has made "
            "meanwhile; look at what is in it, or choose another"
        ) from None


@contextmanager
def _temporary_folder(where: Path, name: str) -> Iterator[Path]:
    """A new folder in `where`, removed at the end; those of writers who were killed go, too.

    The system applies the umask. A writer holds the lock inside for as long as it lives: what can
    be locked is dead.
    """
    _remove_dead(where)
    folder, lock = _make_locked(where, name)
    try:
        yield folder
    finally:
        try:  # sooner done than rmtree, which counts for many small files
            lock.path.unlink()
            folder.rmdir()
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _make_locked(where: Path, name: str) -> tuple[Path, Flock]:
    while True:
        # Shortened: with what is added the name must not become too long for file systems.
        folder = where / f".{name[:48]}.{secrets.token_hex(8)}.partial"
        folder.mkdir()
        try:
            lock = Flock(folder / _LOCK, create=True)
            if lock.held is not False and lock.is_current():
                lock.write(MACHINE)
                return folder, lock
            lock.close()
        except FileNotFoundError:
            continue  # taken for dead, just before it could be locked
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@cache
def _remove_dead(where: Path) -> None:
    """Removes what killed processes have left in a folder; once in the life of a process."""
    with suppress(OSError):  # a folder that may be written to, and not listed
        for folder in where.iterdir():
            if _TEMPORARY.fullmatch(folder.name) and not folder.is_symlink():
                _remove_if_dead(folder)


def _remove_if_dead(folder: Path) -> None:
    with suppress(OSError):  # there is something in it
        folder.rmdir()
    with suppress(OSError), Flock(folder / _LOCK) as lock:
        # On some network disks, locks are those of one machine alone.
        is_old = time.time() - folder.stat().st_mtime > FORGOTTEN_SECONDS
        if lock.held and lock.is_current() and (lock.read() in ("", MACHINE) or is_old):
            shutil.rmtree(folder, ignore_errors=True)
