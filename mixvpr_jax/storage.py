"""Folders on a disk, or in Google's object store: one address for either.

An object appears whole or not at all, and cannot be added to or renamed. What these files do not
touch (arrays of checkpoints, ArrayRecord) is read and written by tensorstore and array_record.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from etils import epath

from mixvpr_jax.errors import InputError
from mixvpr_jax.flock import MACHINE, Flock

AnyPath = epath.Path | Path
"""In an object store, or on a disk."""

# Of what tensorstore says: the store is there no more, or does not let us; retries were in vain.
_UNREACHABLE = re.compile(
    "UNAVAILABLE|PERMISSION_DENIED|UNAUTHENTICATED|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED"
    r"|http_response_code='(401|403|408|429|5\d\d)'"
)


class OutOfReach(InputError):
    """An object store that could not be asked, or that refused."""


def as_path(address: str | os.PathLike[str]) -> AnyPath:
    """A path on a disk, or one in an object store for `gs://bucket/name`.

    Raises:
        InputError: Another kind of address, or the store's library is not installed.
    """
    text = os.fspath(address)
    if not text.startswith("gs://"):
        if re.match(r"[a-z0-9+]{2,}:/", text):
            raise InputError(f"expected a path or gs://bucket/folder, found {text}")
        return Path(text)
    import fsspec.config

    for protocol in ("gs", "gcs"):  # other hosts and libraries write, too: no list may be kept
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    try:
        fsspec.get_filesystem_class("gs")
    except ImportError as error:
        raise InputError(f"{text}: {error}; pip install 'mixvpr-jax[gcs]'") from None
    return epath.Path(text)


def is_local(path: AnyPath) -> bool:
    """Whether a path lies on a disk, not in an object store."""
    return "://" not in os.fspath(path)


def resolved(path: AnyPath) -> AnyPath:
    """The absolute path; an address is one already."""
    return path.resolve() if isinstance(path, Path) else path


@contextmanager
def reaching(path: AnyPath, but: type[Exception] = InputError) -> Iterator[None]:
    """Tells in one line what a store's library says where it cannot do what is asked.

    Args:
        path: What is read or written. Of a disk, what goes wrong is raised as it is.
        but: What is raised as it is in any case.

    Raises:
        OutOfReach: The line.
    """
    try:
        yield
    except (InputError, but):
        raise
    except Exception as error:  # OSError, the library's, HTTP's and the credentials' own
        of_store = isinstance(error, FileNotFoundError) or unreachable(error)
        if is_local(path) or not of_store:
            raise
        raise OutOfReach(
            f"{path}: expected to reach the object store, found: {_in_a_line(error)}; mend it, and "
            "the same command goes on"
        ) from error


def unreachable(error: Exception) -> str | None:
    """What a store's libraries say where it could not be asked, in a line.

    None of anything else, such as an object that is not there, or not what was written.
    """
    line = _in_a_line(error)
    of_library = type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "google")
    of_system = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    of_tensorstore = "gs://" in line and _UNREACHABLE.search(line)
    return line if of_library or of_system or of_tensorstore else None


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_writable(folder: AnyPath) -> None:
    """Writes an object into a folder of a store, and takes it away again.

    Raises:
        OutOfReach: It may not be written there, or the bucket is not there.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    with reaching(folder):
        probe.write_bytes(b"")
        probe.unlink()


@contextmanager
def local_copy(file: AnyPath) -> Iterator[Path]:
    """Gives a file on a disk: the one that is meant, or a copy of an object for the time being.

    Raises:
        OutOfReach: The store cannot be reached.
    """
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, file.name)
        with reaching(file):
            copy.write_bytes(file.read_bytes())
        yield copy


def put_file(file: Path, target: AnyPath) -> None:
    """Makes a file on a disk an object of a store.

    Raises:
        OutOfReach: The store cannot be reached.
    """
    with reaching(target):
        target.write_bytes(file.read_bytes())


def move_folder(source: AnyPath, target: AnyPath) -> None:
    """Renames a folder; in a store, one after another of its objects."""
    if isinstance(source, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    import fsspec

    store, path = fsspec.url_to_fs(os.fspath(source))
    with reaching(source):
        for name in store.find(path):
            store.mv(name, os.fspath(target) + name.removeprefix(path))


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
def atomic_write(path: AnyPath) -> Iterator[Path]:
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
def atomic_folder(folder: AnyPath) -> Iterator[Path]:
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
