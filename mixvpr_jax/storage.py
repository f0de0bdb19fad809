"""Paths on a disk or in Google's object store, and atomic writes to either.

An object appears whole or not at all; nothing can append to it. Arrays of checkpoints and
ArrayRecord files do not pass through here: tensorstore and array_record read and write them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from etils import epath

from mixvpr_jax.errors import InputError, extra, text_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

AnyPath = epath.Path | Path
"""A path in an object store or on a disk."""

# tensorstore's errors when a disk or a store fails or refuses access, after its own retries.
FAILURES = (
    "UNAVAILABLE|PERMISSION_DENIED|UNAUTHENTICATED|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED"
)
_UNREACHABLE = re.compile(rf"{FAILURES}|http_response_code='(401|403|408|429|5\d\d)'")
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.partial", re.DOTALL)
FORGOTTEN_SECONDS = 7 * 86400.0  # age at which other machines remove temporary folders
_LOCK = "lock"  # held by the writer; contains its machine
MACHINE = socket.gethostname()  # or, better, the boot of the kernel that containers share
with suppress(OSError):
    MACHINE = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


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
    """The path of an address: on a disk (~/ is the home), or in a store for `gs://bucket/name`."""
    text = os.fspath(address)
    if not text.startswith("gs://"):
        if not text or re.match(r"[a-z0-9+]{2,}:/", text, re.IGNORECASE):
            raise InputError(f"expected a path or gs://bucket/folder, found {text or 'nothing'}")
        return Path(os.path.expanduser(text) if text.startswith("~/") else text)  # noqa: PTH111
    import fsspec.config

    for protocol in ("gs", "gcs"):  # other hosts write, too: a cached listing goes stale
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    with extra("gcs", f"{text}: expected gcsfs"):
        fsspec.get_filesystem_class("gs")
    return epath.Path(text)


def to_paths(config: object, *names: str) -> None:
    """Converts the addresses in these fields of a dataclass by `as_path`; None passes."""
    for name in names:
        if (value := getattr(config, name)) is not None:
            for one in value if isinstance(value, tuple) else (value,):
                if not isinstance(one, str | os.PathLike):
                    raise InputError(f"{name}: expected a path, found {one!r:.40}")
            path = tuple(map(as_path, value)) if isinstance(value, tuple) else as_path(value)
            object.__setattr__(config, name, path)


def is_local(path: AnyPath | str) -> bool:
    """Whether a path is on a disk."""
    return "://" not in os.fspath(path)


def store_of(path: AnyPath) -> tuple[Any, str]:
    """The object store of a path, as fsspec opens it, and the name there."""
    import fsspec

    return fsspec.url_to_fs(os.fspath(path))


def resolved(path: AnyPath) -> AnyPath:
    """The absolute path; an object store's paths always are."""
    return path.resolve() if isinstance(path, Path) else path


@contextmanager
def reaching(path: AnyPath, but: type[Exception] = InputError) -> Iterator[None]:
    """Turns errors of an object store's libraries into OutOfReach; a disk's and `but` pass."""
    try:
        yield
    except (InputError, but):
        raise
    except Exception as error:  # from the OS, the library, HTTP or the credentials
        if is_local(path) or not (isinstance(error, FileNotFoundError) or unreachable(error)):
            raise
        raise OutOfReach(
            f"{path}: expected to reach the object store, found: {text_of(error)[:300]}; fix that "
            "and run the same command to resume"
        ) from error


def unreachable(error: Exception) -> str | None:
    """Why an object store could not be reached; None for a missing or corrupt object."""
    line = text_of(error)[:300]
    of_library = type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "google")
    of_system = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    of_tensorstore = "gs://" in line and _UNREACHABLE.search(line)
    return line if of_library or of_system or of_tensorstore else None


@contextmanager
def local_copy(file: AnyPath) -> Iterator[Path]:
    """Yields the file, or a temporary copy of the object; errors name the object."""
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, file.name)
        with reaching(file):
            copy.write_bytes(file.read_bytes())
        try:
            yield copy
        except InputError as error:
            told = str(error), *error.details
            line, *details = (text.replace(str(copy), str(file)) for text in told)
            raise InputError(line, details=details) from None


def put_file(file: Path, target: AnyPath) -> None:
    """Moves a file to `target` on the same disk, or copies it into an object store."""
    if isinstance(target, Path):
        file.replace(target)
        return
    with reaching(target):
        target.write_bytes(file.read_bytes())


def move_folder(source: AnyPath, target: AnyPath) -> None:
    """Renames a folder; in an object store, object by object."""
    if isinstance(source, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    store, path = store_of(source)
    with reaching(source):
        for name in store.find(path):
            store.mv(name, os.fspath(target) + name.removeprefix(path))


def write_json(file: Path, value: Any) -> None:
    """Writes a value for programs and people."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[Path]:
    """Yields a temporary path on a disk and moves the file to `path` on success."""
    with named_when_full(path), _temporary_folder(path.parent, path.name) as folder:
        yield folder / path.name
        put_file(folder / path.name, path)


@contextmanager
def atomic_folder(folder: AnyPath) -> Iterator[Path]:
    """Yields an empty folder on a disk and moves its files into `folder` on success.

    A new `folder` appears whole, by one rename, or AppearedMeanwhile is raised. Files are moved one
    by one into an existing folder (from a temporary folder inside it: it may be a mount point, or
    its parent read-only) or into an object store.
    """
    exists = isinstance(folder, Path) and folder.is_dir()
    where = folder if exists else folder.parent
    with named_when_full(folder), _temporary_folder(where, folder.name) as temporary:
        files = temporary / "files"
        files.mkdir()
        yield files
        if exists or not isinstance(folder, Path):
            for file in sorted(files.iterdir()):
                put_file(file, folder / file.name)
            return
        try:
            files.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise AppearedMeanwhile(
                f"{folder}: expected to make this folder, found one that another process has made "
                "meanwhile; look at what is in it, or choose another"
            ) from None


@contextmanager
def named_when_full(path: AnyPath) -> Iterator[None]:
    """Turns errors of a full disk into NoRoom, which names the outermost path where several do."""
    try:
        yield
    except Exception as error:
        if (reason := _full(error)) is None:
            raise
        raise NoRoom(path, reason) from error


def _full(error: Exception) -> str | None:
    """The message of an error that means a full disk, otherwise None."""
    if isinstance(error, InputError):
        return error.reason if isinstance(error, NoRoom) else None
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return text if error.filename else error.strerror
    of_numpy = isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", text)
    return text if of_numpy or "No space left on device" in text else None  # FAISS: RuntimeError


class Flock:
    """An open file and the kernel's lock on it, which is released however the process ends.

    `held` is False if another process has the lock, None if the file system has no locks.
    """

    def __init__(self, path: Path, flags: int = 0) -> None:
        self.path, self.held = path, None
        # NFS needs write access to lock, which another user's file may not give.
        access = os.O_RDWR if flags or os.access(path, os.W_OK) else os.O_RDONLY
        self.file = os.open(path, access | flags, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.held = True
        except BlockingIOError:
            self.held = False
        except OSError:
            pass

    @classmethod
    def create(cls, path: Path, text: str) -> Flock | None:
        """Creates a locked file that must not exist; None if another process locked it first."""
        lock = cls(path, os.O_CREAT | os.O_EXCL)
        try:
            if lock.held is not False and lock.is_current():
                os.write(lock.file, text.encode())
                return lock
        except OSError:  # a full disk
            path.unlink(missing_ok=True)
            lock.close()
            raise
        lock.close()
        return None

    def is_current(self) -> bool:
        """Whether the path still leads to the open file."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.file))
        except FileNotFoundError:
            return False

    def read(self) -> str:
        """The first 4 KiB as text."""
        return os.pread(self.file, 4096, 0).decode("utf-8", "replace")

    def close(self) -> None:
        """Closes the file and releases the lock."""
        os.close(self.file)


@contextmanager
def _temporary_folder(where: AnyPath, name: str) -> Iterator[Path]:
    """Yields a new folder in `where`, then removes it; also removes those of killed writers.

    A living writer holds the lock in its folder. Plain mkdir, unlike tempfile, applies the umask.
    """
    if not isinstance(where, Path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    where.mkdir(parents=True, exist_ok=True)
    _remove_dead(where)
    folder, lock = _make_locked(where, name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _make_locked(where: Path, name: str) -> tuple[Path, Flock]:
    while True:
        # Truncated to stay within the length limit of file names.
        folder = where / f".{name[:48]}.{secrets.token_hex(8)}.partial"
        folder.mkdir()
        try:
            if (lock := Flock.create(folder / _LOCK, MACHINE)) is not None:
                return folder, lock
        except FileNotFoundError:
            pass  # removed as abandoned before it was locked
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
    with suppress(OSError), closing(Flock(folder / _LOCK)) as lock:
        # On some network disks, other machines do not see a lock.
        is_old = time.time() - folder.stat().st_mtime > FORGOTTEN_SECONDS
        if lock.held and lock.is_current() and (lock.read() in ("", MACHINE) or is_old):
            shutil.rmtree(folder, ignore_errors=True)
