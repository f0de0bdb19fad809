"""Orbax checkpoints of a run: model, optimizer, step and data position.

A damaged checkpoint (a checksum that differs, content that is missing or cannot be decoded) is
told apart from one that this machine cannot read just now (open files, memory, permissions, a
failing disk), which a user can fix.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.utils import checkpoint_steps

from mixvpr_jax.distributed import gather_text, is_main_process, raise_on_all_processes
from mixvpr_jax.errors import InputError, text_of
from mixvpr_jax.storage import (
    FAILURES,
    AnyPath,
    OutOfReach,
    is_local,
    move_folder,
    reaching,
    unreachable,
)
from mixvpr_jax.training.step import TrainState

# What reading raises if a file is not what was written …
_OF_CONTENT = (ValueError, TypeError, LookupError, AttributeError, EOFError, RecursionError)
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# … and if the machine fails, besides errors with a number.
_OF_MACHINE = (MemoryError, TimeoutError, ConnectionError)
_SYSTEM = re.compile(r"os_error_code='(\d+)'")  # as tensorstore writes the number

# Devices share the writing of large arrays alone. By default Orbax slices every array, however
# small: on eight devices, a save then holds up training for four times as long.
_MIN_SLICE_BYTES = 2**20
_ARRAYS = ocp.type_handlers.create_type_handler_registry(
    (
        jax.Array,
        ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_MIN_SLICE_BYTES),
    )
)

logger = logging.getLogger(__name__)


class DamagedCheckpoint(InputError):
    """A checkpoint that is not what was saved."""


class Checkpoints:
    """The checkpoints of a run by step, each written atomically in the background."""

    def __init__(
        self,
        folder: AnyPath,
        best_steps: Callable[[], Iterable[int]] = tuple,
        *,
        only_read: bool = False,
    ) -> None:
        """Opens or creates a folder; each save keeps the last step and those of `best_steps`.

        Unless `only_read`, temporary files are removed, even those of another process.
        """
        self._manager = ocp.CheckpointManager(
            folder.absolute() if isinstance(folder, Path) else folder,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(type_handler_registry=_ARRAYS),
                "position": ocp.JsonCheckpointHandler(),
                "checksums": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_LastAnd(best_steps),
                cleanup_tmp_directories=not only_read,
                create=not only_read,
            ),
        )
        self.folder = folder
        self._failed = False

    @property
    def steps(self) -> Sequence[int]:
        """The steps of the complete checkpoints."""
        return self._manager.all_steps()

    def save(self, step: int, state: TrainState, position: Mapping[str, Any]) -> None:
        """Saves in the background; the state may be donated as soon as this returns.

        Raises InputError if this checkpoint or the one before could not be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(_named(state)),
            position=ocp.args.JsonSave(dict(position)),
            checksums=ocp.args.JsonSave(_checksums(_named(state), position)),
        )
        with self._writing():
            self._manager.save(step, args=items)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and data position of a saved step, on the devices of a state `like` it.

        Raises:
            InputError: It is of another model or optimizer, or this machine could not read it.
            DamagedCheckpoint: It was read and is not what was saved.
        """
        wanted = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
            for name, array in _named(like).items()
        }
        damage, found = "", None
        with raise_on_all_processes():
            try:
                with self._reading(step):
                    self._require_shapes(step, wanted)
                    found = self._restore(step, wanted)
            except DamagedCheckpoint as error:
                damage = str(error)
        for line in filter(None, gather_text(damage)):  # perhaps another process's disk
            raise DamagedCheckpoint(line)
        assert found is not None
        arrays = [found.state[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), arrays), found.position

    def restore_last(self, like: TrainState) -> tuple[int, TrainState, dict[str, Any]] | None:
        """Step, state and position of the last undamaged checkpoint; None if none was saved.

        Moves damaged ones aside, as their steps will be saved again; raises as `restore`, and
        InputError if all are damaged.
        """
        damaged: list[int] = []
        for step in sorted(self.steps, reverse=True):
            try:
                state, position = self.restore(step, like)
            except DamagedCheckpoint as error:
                logger.warning("%s: restoring the one before", error)
                damaged.append(step)
                continue
            if damaged:
                with raise_on_all_processes():
                    for other in damaged if is_main_process() else ():
                        name = f"damaged_checkpoints/{other}_{time.time_ns()}"
                        move_folder(self.folder / str(other), self.folder.parent / name)
                self._manager.reload()
            return step, state, position
        if damaged:
            raise InputError(
                f"{self.folder}: expected an undamaged checkpoint, found {len(damaged)} damaged; "
                "start again in another --workdir, or copy them back from a backup"
            )
        return None

    def weights(self, step: int) -> dict[str, np.ndarray]:
        """Parameters and batch_stats of a step by name, for any model; raises as `restore`."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with self._reading(step):
            wanted = {
                name: jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=device)
                for name, stored in self._stored(step).items()
                if name.startswith(("params.", "statistics."))
            }
            arrays = self._restore(step, wanted).state
        return {name.split(".", 1)[1]: np.asarray(array) for name, array in arrays.items()}

    def finish(self) -> None:
        """Waits until everything is written; raises InputError if it cannot be."""
        with self._writing():
            self._manager.wait_until_finished()

    def abandon(self) -> None:
        """Makes `close` wait for nothing: with a store out of reach, that may take long."""
        self._failed = True

    def close(self) -> None:
        """Waits as `finish` does, unless a save failed: its rest may wait for minutes."""
        if not self._failed:
            with self._writing():
                self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a failed save into one line and removes its temporary files."""
        try:
            yield
        except jax.errors.JaxRuntimeError:  # another process may have died
            raise
        except Exception as error:
            local = is_local(self.folder)
            if (reason := _of_machine(error) if local else unreachable(error)) is None:
                raise
            self._failed = True
            kind, wanted = OutOfReach, "reach the object store"
            if local:  # in a store, Orbax's next start removes temporary files
                kind, wanted = InputError, "write a checkpoint"
                for unfinished in self.folder.glob("*.orbax-checkpoint-tmp"):
                    shutil.rmtree(unfinished, ignore_errors=True)
            raise kind(
                f"{self.folder}: expected to {wanted}, found: {reason}; fix that and run the same "
                "command to resume"
            ) from error

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Raises DamagedCheckpoint for wrong or missing content, else InputError."""
        folder = self.folder / str(step)
        try:
            with reaching(folder, but=FileNotFoundError):  # a missing object is damage
                yield
        except InputError:
            raise
        except Exception as error:  # Orbax raises many kinds, Exception among them
            reason = _of_machine(error, reading=True) or _unreadable(folder)
            if reason is None:
                raise DamagedCheckpoint(f"{folder}: damaged ({text_of(error)[:200]})") from error
            raise InputError(
                f"{folder}: expected to read the checkpoint, found: {reason}; fix that and run the "
                "same command to resume (or move this checkpoint away, to resume from the one "
                "before)"
            ) from error

    def _stored(self, step: int) -> Mapping[str, Any]:
        """The metadata of each array; the manager's own would hide why it is missing."""
        folder = self._manager.directory / str(step) / "state"
        return ocp.PyTreeCheckpointHandler().metadata(folder).tree

    def _restore(self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]) -> Any:
        placed = ocp.checkpoint_utils.construct_restore_args(wanted)
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=placed, partial_restore=True)
        items = ocp.args.Composite(
            state=arguments, position=ocp.args.JsonRestore(), checksums=ocp.args.JsonRestore()
        )
        found: Any = self._manager.restore(step, args=items)
        checksums = _checksums(found.state, found.position)
        if other := [name for name in checksums if found.checksums.get(name) != checksums[name]]:
            raise ValueError(f"{', '.join(other[:3])}: not what was saved")
        return found

    def _require_shapes(self, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        found, expected = (
            {name: (list(array.shape), str(array.dtype)) for name, array in arrays.items()}
            for arrays in (self._stored(step), wanted)
        )
        names = sorted(expected.keys() | found.keys())
        if other := [name for name in names if expected.get(name) != found.get(name)]:
            shown = [f"{n} (expected {expected.get(n)}, found {found.get(n)})" for n in other[:3]]
            more = f" and {len(other) - 3} more" if len(other) > 3 else ""
            raise InputError(
                f"{self.folder / str(step)}: a checkpoint of another model or optimizer: "
                f"{', '.join(shown)}{more}"
            )


def last_step(workdir: AnyPath) -> int:
    """The step of a run's last checkpoint, 0 without one."""
    folder = workdir / "checkpoints"
    return max(checkpoint_steps(folder), default=0) if folder.is_dir() else 0


class _LastAnd(checkpoint_managers.PreservationPolicy):
    """Keeps the last checkpoint and the best ones."""

    def __init__(self, best_steps: Callable[[], Iterable[int]]) -> None:
        self.best_steps = best_steps

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: checkpoint_managers.PreservationContext
    ) -> Sequence[bool]:
        """Whether to keep each checkpoint, by ascending step."""
        del context
        kept = {checkpoints[-1].step, *self.best_steps()}
        return [checkpoint.step in kept for checkpoint in checkpoints]


def _named(state: TrainState) -> dict[str, jax.Array]:
    """The arrays of a state by dotted name (`params.backbone.conv1.kernel`, `step`, …)."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        named[name.removesuffix(".value")] = leaf  # of a Flax variable
    return named


def _of_machine(error: BaseException, *, reading: bool = False) -> str | None:
    """The machine's fault in a line, from an error and its causes; None if content is at fault.

    When `reading`, a missing file is missing content, and an unknown error is the machine's.
    """
    known, cause = False, error
    while cause is not None:
        text, told = str(cause), cause
        if found := _SYSTEM.search(text):
            told = OSError(int(found[1]), os.strerror(int(found[1])))  # of the number's own class
        missing = reading and isinstance(told, _MISSING)
        if isinstance(told, OSError) and told.strerror and not missing:
            return told.strerror
        if isinstance(told, _OF_MACHINE) or re.match(FAILURES, text):
            return text_of(cause)[:200]
        known |= missing or isinstance(cause, _OF_CONTENT)
        cause = cause.__cause__ or cause.__context__
    if reading:
        return None if known else text_of(error)[:200]
    return text_of(error)[:200] if isinstance(error, OSError) else None


def _unreadable(folder: AnyPath) -> str | None:
    """Why this machine cannot read existing files, which libraries take for missing."""
    if not isinstance(folder, Path):
        return None

    def fail(error: OSError) -> None:
        raise error

    try:
        for at, _, names in os.walk(folder, onerror=fail):
            for path in (Path(at, name) for name in names):
                if path.is_file():
                    with path.open("rb") as file:
                        while file.read(2**20):
                            pass
    except OSError as error:
        return _of_machine(error, reading=True)
    return None


def _checksums(arrays: Mapping[str, jax.Array], position: Mapping[str, Any]) -> dict[str, str]:
    """The CRC-32 of each array's bytes by name, and of the position."""
    parts = {name: array.tobytes() for name, array in jax.device_get(dict(arrays)).items()}
    parts["position"] = json.dumps(position, sort_keys=True).encode()
    return {name: f"{zlib.crc32(part):08x}" for name, part in parts.items()}
