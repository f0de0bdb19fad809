"""The workdir of a run: one configuration, one run at a time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from mixvpr_jax.distributed import is_main_process
from mixvpr_jax.errors import InputError
from mixvpr_jax.locks import locked
from mixvpr_jax.storage import (
    AnyPath,
    atomic_write,
    check_writable,
    is_local,
    named_when_full,
    reaching,
)
from mixvpr_jax.training.config import RENAMED, TrainConfig, ValidationConfig, differences

# Fields that change no step already taken. Checkpoints hold a checksum of what lies in data.root.
_OF_DATA = ("root", "num_workers", "prefetch", "max_unreadable", "timeout_seconds")
MAY_CHANGE = {
    *(f"data.{name}" for name in _OF_DATA),
    *(f"validation.{field.name}" for field in fields(ValidationConfig)),
    *("epochs", "log_every_steps", "checkpoint_every_steps"),
}


def check_workdir(config: TrainConfig, workdir: AnyPath) -> None:
    """Raises InputError if a workdir cannot be that of this run; the line lists differences."""
    path, checkpoints = workdir / "config.json", workdir / "checkpoints"
    with reaching(workdir):
        _require_folder(workdir, "the run")
        if path.exists():
            _check_config(config, workdir, path)
        elif checkpoints.exists():
            raise InputError(f"{workdir}: expected config.json beside checkpoints, found none")
        _require_folder(checkpoints, "checkpoints")
    _check_writable(workdir)
    if is_local(workdir):
        _check_writable(checkpoints)


def claim_workdir(config: TrainConfig, workdir: AnyPath) -> None:
    """Writes config.json, by process 0, unless the workdir holds the same."""
    if not is_main_process():
        return
    path, text = workdir / "config.json", json.dumps(config.to_dict(), indent=2) + "\n"
    with reaching(workdir):
        there = path.read_text() if path.exists() else None
    if there != text:
        with atomic_write(path) as temporary:
            temporary.write_text(text)


@contextmanager
def locked_workdir(workdir: AnyPath) -> Iterator[Callable[[], None]]:
    """Locks a workdir against other runs, by process 0, and names it in errors of a full disk.

    Yields a function that raises InputError once another run has taken this one for dead; see
    `FolderLock.require`.

    Raises:
        InputError: Another run holds the lock, or the workdir is not writable.
    """
    if not is_main_process():
        yield lambda: None
        return
    with reaching(workdir):
        _require_folder(workdir, "the run")
    _check_writable(workdir)
    with named_when_full(workdir), locked(workdir, "run") as lock:
        yield lock.require


def _check_config(config: TrainConfig, workdir: AnyPath, path: AnyPath) -> None:
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: expected a run's configuration, found {error}") from None
    if not isinstance(there, dict):
        raise InputError(f"{path}: expected a run's configuration, found {type(there).__name__}")
    there = {RENAMED.get(name, name): value for name, value in dict[str, Any](there).items()}
    if isinstance(there.get("model"), dict):
        there["model"].setdefault("interpolation", "bilinear")  # earlier versions had no other
    lines = differences(there, config.to_dict())
    if other := [line for line in lines if line.split(":")[0] not in MAY_CHANGE]:
        raise InputError(
            f"{workdir}: a run of another configuration ({'; '.join(other)}); choose another "
            "folder, or give the same command to go on"
        )


def _require_folder(folder: AnyPath, what: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder for {what}, found a file; choose another --workdir"
        )


def _check_writable(folder: AnyPath) -> None:
    """Creates an unnamed file in the folder or its nearest existing parent, and leaves nothing."""
    if not is_local(folder):
        check_writable(folder)
        return
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder that can be written to, found: {error.strerror}; mend it "
            "or choose another --workdir"
        ) from None
