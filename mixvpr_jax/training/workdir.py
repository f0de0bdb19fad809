"""The working folder of a run: one configuration to a folder."""

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

# What changes no step that was taken: how fast batches come and where from (of what is in them
# checkpoints hold a checksum), what is measured, how often something is written, when to end.
_OF_DATA = ("root", "num_workers", "prefetch", "max_unreadable", "timeout_seconds")
MAY_CHANGE = {
    *(f"data.{name}" for name in _OF_DATA),
    *(f"validation.{field.name}" for field in fields(ValidationConfig)),
    *("epochs", "log_every_steps", "checkpoint_every_steps"),
}


def check_workdir(config: TrainConfig, workdir: AnyPath) -> None:
    """Raises InputError where a folder cannot be that of this run; the line lists differences."""
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
    """Writes a run's configuration into its folder, where that does not hold it; process 0 does."""
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
    """Keeps other runs from a run's folder, and names it where its disk is full.

    Of the processes of a run the first one does. Gives what raises InputError once another run has
    taken this one for dead, see `FolderLock.require`.

    Raises:
        InputError: Another run is there, or it may not be written there.
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
        there["model"].setdefault("interpolation", "bilinear")  # all that there was before
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
    """Makes a file that has no name and leaves nothing, there or where the folder will be made."""
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
