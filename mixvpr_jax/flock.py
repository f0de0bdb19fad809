"""The kernel's lock on a file: whoever ends, however, lets go of it."""

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
    """One kernel, whatever its containers call themselves."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


MACHINE = _machine()


class Flock:
    """An open file, with the kernel's lock on it where that can be had.

    Attributes:
        held: Whether it is locked here; False where another has it, None where the file system
            knows no such locks.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Opens a file, or makes it anew, and tries to lock it."""
        self.path = path
        flags = os.O_CREAT | os.O_EXCL if create else 0
        try:
            self._file = os.open(path, os.O_RDWR | flags, 0o666)
        except PermissionError:  # another user's; NFS alone wants more to lock it
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
        """Whether the file is still the one of that name."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def read(self) -> str:
        """The text in it."""
        return os.pread(self._file, 4096, 0).decode("utf-8", "replace")

    def write(self, text: str) -> None:
        """Puts a text into it, where it was empty."""
        os.write(self._file, text.encode())

    def touch(self) -> None:
        """Changes its time, which asks for no room on the disk."""
        os.utime(self._file)

    def close(self) -> None:
        """Lets go of it."""
        os.close(self._file)
