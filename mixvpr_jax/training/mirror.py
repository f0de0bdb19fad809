"""Files of a run that grow, or that other libraries write: on a disk, kept in an object store."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from mixvpr_jax.stores import AnyPath, put_file

SECONDS = 30.0  # between copies of what grows all the time


class Mirror:
    """A folder on a disk: the run's own, or one whose files are copied to the run's object store.

    An object cannot be added to. So what grows is copied whole, now and then.

    Attributes:
        folder: Where to write.
    """

    def __init__(self, target: AnyPath) -> None:
        """Takes the run's folder."""
        self._target = target
        own = isinstance(target, Path)
        self.folder = target if own else Path(tempfile.mkdtemp(prefix="mixvpr_jax."))
        self._lost = False
        self._copied: dict[Path, tuple[int, int]] = {}
        self._last = time.monotonic()

    def copy_if_due(self) -> None:
        """Copies what is new, but not all the time."""
        if time.monotonic() - self._last >= SECONDS:
            self.copy()

    def copy(self) -> None:
        """Copies what is new: it is in the run's folder when this returns.

        Raises:
            OutOfReach: The store cannot be reached.
        """
        if self.folder == self._target:
            return
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            state = file.stat()
            stamp = state.st_size, state.st_mtime_ns
            if self._copied.get(file) != stamp:
                self._lost = True
                put_file(file, self._target / file.relative_to(self.folder).as_posix())
                self._lost = False
                self._copied[file] = stamp
        self._last = time.monotonic()

    def close(self) -> None:
        """Copies what is new, unless that failed before; removes what was only on the way."""
        if self.folder == self._target:
            return
        try:
            if not self._lost:
                self.copy()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
