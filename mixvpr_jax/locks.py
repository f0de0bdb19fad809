"""Exclusive write access to a folder on a disk, a network disk or an object store.

A file or object `.lock` in the folder names the owner. On a disk the owner holds flock(2) on it,
which the kernel releases however the process ends. Where the kernel cannot tell (another machine, a
file system without locks, an object store) the owner renews the lock every `BEAT_SECONDS` and
counts as dead after `DEAD_SECONDS` without a renewal.
"""

from __future__ import annotations

import getpass
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from mixvpr_jax.errors import InputError, one_line
from mixvpr_jax.storage import MACHINE, AnyPath, Flock, reaching, store_of

BEAT_SECONDS = 15.0
DEAD_SECONDS = 60.0
POLL_SECONDS = 1.0
RELEASE_SECONDS = 10.0
NAME = ".lock"

logger = logging.getLogger(__name__)


class _OnDisk:
    """A lock file."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self._lock: Flock | None = None

    def create(self) -> bool:
        # FileNotFoundError: another process removed the folder, which was empty, meanwhile.
        with suppress(FileNotFoundError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self._lock = Flock.create(self.path, self.text)
        return self._lock is not None

    def sign(self) -> tuple[str, object] | None:
        """The text, and a value that changes while the owner lives; None if there is no lock."""
        try:
            with self.path.open("rb") as file:  # opening revalidates on NFS
                found = os.fstat(file.fileno())
                return file.read(4096).decode("utf-8", "replace"), (found.st_ino, found.st_mtime_ns)
        except FileNotFoundError:
            return None

    def remove_if_dead(self) -> bool | None:
        """Removes the lock if the owner has ended; None if the kernel cannot tell."""
        with suppress(FileNotFoundError), closing(Flock(self.path)) as lock:
            if lock.held is False:
                return False
            text = lock.read()  # written after locking
            if not lock.held or (text and text.partition("\n")[0] != MACHINE):
                return None
            if lock.is_current():
                self.remove()
        return True

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def beat(self) -> None:
        assert self._lock is not None
        os.utime(self._lock.file)  # works on a full disk

    def release(self) -> None:
        assert self._lock is not None
        if self._lock.is_current():
            self.remove()
        self._lock.close()


class _InStore:
    """A lock object: the store creates it atomically; its owner rewrites it as a heartbeat."""

    def __init__(self, path: AnyPath, text: str) -> None:
        self.path, self.text = path, text
        self._store, self._name = store_of(path)

    def create(self) -> bool:
        with reaching(self.path, but=FileExistsError):
            try:
                self.beat(mode="create")
            except FileExistsError:
                found = self.sign()
                return found is not None and found[0] == self.text  # a retry of what succeeded
        return True

    def sign(self) -> tuple[str, object] | None:
        with reaching(self.path, but=FileNotFoundError):
            try:
                text, _, beat = self._store.cat_file(self._name).decode().rpartition("\n")
            except FileNotFoundError:
                return None
        return text, beat

    def remove_if_dead(self) -> None:
        return None

    def remove(self) -> None:
        with reaching(self.path), suppress(FileNotFoundError):
            self._store.rm_file(self._name)

    def beat(self, mode: str = "overwrite") -> None:
        content = f"{self.text}\n{secrets.token_hex(8)}"
        self._store.pipe_file(self._name, content.encode(), mode=mode)

    release = remove


class FolderLock:
    """This process's exclusive access to a folder."""

    def __init__(self, place: _OnDisk | _InStore, folder: AnyPath) -> None:
        """Keeps a lock that was just created alive; use `locked`."""
        self._place, self._folder = place, folder
        self._taken_by: str | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._hold, daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Raises InputError if another process considered this one dead and took the folder."""
        if self._taken_by is not None:
            raise InputError(
                f"{self._folder}: expected to be the only one to write here, found that "
                f"{_owner(self._taken_by)} took over: for {DEAD_SECONDS:.0f} s this process gave "
                "no sign of life"
            )

    def release(self) -> None:
        """Releases the folder; does not wait for an unreachable store."""
        self._done.set()
        self._thread.join(RELEASE_SECONDS)

    def _hold(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            with suppress(Exception):  # the run itself reports an unreachable disk or store
                found = self._place.sign()
                if found is not None and found[0] != self._place.text:
                    self._taken_by = found[0]
                    return
                self._place.beat()
        with suppress(Exception):
            self._place.release()


@contextmanager
def locked(folder: AnyPath, what: str) -> Iterator[FolderLock]:
    """Locks a folder for this process, creating it if need be; removes it again if still empty.

    Raises InputError if another process (a `what`, such as "run") holds the lock.
    """
    created, text = [], _signature()
    if isinstance(folder, Path):
        created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        path = folder / NAME
        place = _OnDisk(path, text) if isinstance(path, Path) else _InStore(path, text)
        while not place.create():
            _wait_for_the_dead(place, folder, what)
        lock = FolderLock(place, folder)
        try:
            yield lock
        finally:
            lock.release()
    finally:
        for empty in created:  # innermost first
            with suppress(OSError):
                empty.rmdir()


def _wait_for_the_dead(place: _OnDisk | _InStore, folder: AnyPath, what: str) -> None:
    """Returns once the lock is gone; raises InputError if its owner is alive."""
    dead = place.remove_if_dead()
    if dead or (before := place.sign()) is None:
        return
    now, owner = before, _owner(before[0])
    if dead is None:
        logger.warning("%s: waiting to see whether %s is alive", folder, owner)
        until = time.monotonic() + DEAD_SECONDS
        while (now := place.sign()) == before and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
    if dead is False or now not in (before, None):
        raise InputError(
            f"{folder}: expected no other {what} here, found one of {owner}; wait until it ends, "
            "or choose another folder"
        )
    if now is not None and place.sign() == before:
        place.remove()


def _signature() -> str:
    """A lock's text, a line each: the machine, the owner, a token."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = str(os.getuid())
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    owner = f"{user}@{socket.gethostname()} (pid {os.getpid()}, since {since})"
    return f"{MACHINE}\n{owner}\n{secrets.token_hex(8)}"


def _owner(text: str) -> str:
    _, *others = text.split("\n")
    return one_line(others[0]) if others else "another process"
