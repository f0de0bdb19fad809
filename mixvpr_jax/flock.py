"""The kernel's lock on a file, released however its process ends."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def _machine() -> str:
    """Identifies the kernel, which containers on one machine share."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


MACHINE = _machine()


class Flock:
    """An open file and, if possible, the kernel's lock on it.

    Attributes:
        held: Whether this object holds the lock; False if another process does, None if the file
            system does not support locks.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Opens a file, or creates one that must not exist, and tries to lock it."""
        self.path = path
        flags = os.O_CREAT | os.O_EXCL if create else 0
        try:
            self._file = os.open(path, os.O_RDWR | flags, 0o666)
        except PermissionError:  # another user's; only NFS needs write access to lock it
            if create:
                raise
            self._file = os.open(path, os.O_RDONLY)
        self.held = self._try()

    def _try(self) -> bool | None:
        if fcntl is None:
            return None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

    def __enter__(self) -> Flock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_current(self) -> bool:
        """Whether the path still leads to the open file."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def read(self) -> str:
        """The first 4 KiB as text."""
        return os.pread(self._file, 4096, 0).decode("utf-8", "replace")

    def write(self, text: str) -> None:
        """Writes text into the empty file."""
        os.write(self._file, text.encode())

    def touch(self) -> None:
        """Updates the modification time, which works on a full disk."""
        os.utime(self._file)

    def close(self) -> None:
        """Closes the file and releases the lock."""
        os.close(self._file)
