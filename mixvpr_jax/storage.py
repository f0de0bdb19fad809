"""Paths on a disk or in Google's object store, and atomic writes to either.

In this order: errors, paths, access to objects, atomic writes, temporary folders. An object appears
whole or not at all; nothing can append to it. Arrays of checkpoints and ArrayRecord files do not
pass through here: tensorstore and array_record read and write them.
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
"""A path in an object store or on a disk."""

# tensorstore's errors when the store is unreachable or refuses access, after its own retries.
_UNREACHABLE = re.compile(
    "UNAVAILABLE|PERMISSION_DENIED|UNAUTHENTICATED|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED"
    r"|http_response_code='(401|403|408|429|5\d\d)'"
)

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.partial", re.DOTALL)
FORGOTTEN_SECONDS = 7 * 86400.0  # age at which other machines remove temporary folders
_LOCK = "lock"  # held by the writer; contains its machine


class OutOfReach(InputError):
    """An object store that is unreachable or refuses access."""


class NoRoom(InputError):
    """A disk is full."""

    def __init__(self, path: AnyPath, reason: str) -> None:
        super().__init__(
            f"{path}: expected room on the disk, found: {reason}; make room, and give the same "
            "command again"
        )
        self.reason = reason


class AppearedMeanwhile(InputError):
    """Another process created the folder first."""


def as_path(address: str | os.PathLike[str]) -> AnyPath:
    """The path of an address: on a disk, or in an object store for `gs://bucket/name`.

    Raises:
        InputError: Any other scheme, or the store's library is not installed.
    """
    text = os.fspath(address)
    if not text.startswith("gs://"):
        if re.match(r"[a-z0-9+]{2,}:/", text):
            raise InputError(f"expected a path or gs://bucket/folder, found {text}")
        return Path(text)
    import fsspec.config

    for protocol in ("gs", "gcs"):  # other hosts write, too: a cached listing goes stale
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    try:
        fsspec.get_filesystem_class("gs")
    except ImportError as error:
        raise InputError(f"{text}: {error}; pip install 'mixvpr-jax[gcs]'") from None
    return epath.Path(text)


def is_local(path: AnyPath) -> bool:
    """Whether a path is on a disk."""
    return "://" not in os.fspath(path)


def resolved(path: AnyPath) -> AnyPath:
    """The absolute path; an object store's paths always are."""
    return path.resolve() if isinstance(path, Path) else path


@contextmanager
def reaching(path: AnyPath, but: type[Exception] = InputError) -> Iterator[None]:
    """Turns errors of an object store's libraries into one line; those of a disk pass unchanged.

    Args:
        path: What is read or written.
        but: An exception to pass unchanged in either case.

    Raises:
        OutOfReach: The store is unreachable, refuses access or lacks the object.
    """
    try:
        yield
    except (InputError, but):
        raise
    except Exception as error:  # from the OS, the library, HTTP or the credentials
        of_store = isinstance(error, FileNotFoundError) or unreachable(error)
        if is_local(path) or not of_store:
            raise
        raise OutOfReach(
            f"{path}: expected to reach the object store, found: {_in_a_line(error)}; fix that "
            "and run the same command to resume"
        ) from error


def unreachable(error: Exception) -> str | None:
    """The one-line reason when an object store could not be reached, otherwise None.

    A missing or corrupt object is not such a reason.
    """
    line = _in_a_line(error)
    of_library = type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "google")
    of_system = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    of_tensorstore = "gs://" in line and _UNREACHABLE.search(line)
    return line if of_library or of_system or of_tensorstore else None


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_writable(folder: AnyPath) -> None:
    """Writes an object into a folder of an object store and deletes it.

    Raises:
        OutOfReach: Writing is refused, or there is no such bucket.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    with reaching(folder):
        probe.write_bytes(b"")
        probe.unlink()


@contextmanager
def local_copy(file: AnyPath) -> Iterator[Path]:
    """Yields the file itself if it is on a disk, otherwise a temporary copy of the object.

    Raises:
        OutOfReach: The object cannot be read.
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
    """Uploads a file to an object store.

    Raises:
        OutOfReach: The object cannot be written.
    """
    with reaching(target):
        target.write_bytes(file.read_bytes())


def move_folder(source: AnyPath, target: AnyPath) -> None:
    """Renames a folder; in an object store, object by object."""
    if isinstance(source, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    import fsspec

    store, path = fsspec.url_to_fs(os.fspath(source))
    with reaching(source):
        for name in store.find(path):
            store.mv(name, os.fspath(target) + name.removeprefix(path))


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[Path]:
    """Yields a temporary path on a disk and moves the file to `path` on success.

    Raises:
        InputError: The disk is full or the store is unreachable.
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
    """Yields an empty folder on a disk and moves its files into `folder` on success.

    A new `folder` appears whole, by one rename. Files are moved one by one into an existing folder
    (from a temporary folder inside it: it may be a mount point, or its parent read-only) or into an
    object store.

    Raises:
        AppearedMeanwhile: Another process created `folder` first.
        InputError: The disk is full or the store is unreachable.
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
    """Adds the path to errors of a full disk, which often lack it.

    When nested, the outermost path is named: the inner one may be a temporary file.

    Raises:
        NoRoom: The disk is full.
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
    """The message of an error that means a full disk, otherwise None."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return text if error.filename else error.strerror
        if re.fullmatch(r"\d+ requested and \d+ written", text):  # NumPy's message
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
    """Yields a new folder in `where`, then removes it; also removes those of killed writers.

    A living writer holds the lock inside its folder, so a folder whose lock is free is abandoned.
    Plain mkdir, unlike tempfile, applies the umask.
    """
    _remove_dead(where)
    folder, lock = _make_locked(where, name)
    try:
        yield folder
    finally:
        try:  # faster than rmtree, which matters for many small files
            lock.path.unlink()
            folder.rmdir()
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _make_locked(where: Path, name: str) -> tuple[Path, Flock]:
    while True:
        # Truncated to stay within the length limit of file names.
        folder = where / f".{name[:48]}.{secrets.token_hex(8)}.partial"
        folder.mkdir()
        try:
            lock = Flock(folder / _LOCK, create=True)
            if lock.held is not False and lock.is_current():
                lock.write(MACHINE)
                return folder, lock
            lock.close()
        except FileNotFoundError:
            continue  # removed as abandoned before it was locked
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@cache
def _remove_dead(where: Path) -> None:
    """Removes the temporary folders of killed processes; once per process and folder."""
    with suppress(OSError):  # the folder may be writable but not listable
        for folder in where.iterdir():
            if _TEMPORARY.fullmatch(folder.name) and not folder.is_symlink():
                _remove_if_dead(folder)


def _remove_if_dead(folder: Path) -> None:
    with suppress(OSError):  # not empty
        folder.rmdir()
    with suppress(OSError), Flock(folder / _LOCK) as lock:
        # On some network disks, other machines do not see a lock.
        is_old = time.time() - folder.stat().st_mtime > FORGOTTEN_SECONDS
        if lock.held and lock.is_current() and (lock.read() in ("", MACHINE) or is_old):
            shutil.rmtree(folder, ignore_errors=True)
