"""Checkpoints of a run: model, optimizer, step and data position in one, by way of Orbax."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mixvpr_jax.errors import InputError
from mixvpr_jax.training.step import TrainState


class Checkpoints:
    """The checkpoints of a run, by step; written in the background, each whole or not at all."""

    def __init__(
        self,
        folder: Path,
        best_steps: Callable[[], Iterable[int]] = tuple,
        *,
        only_read: bool = False,
    ) -> None:
        """Opens a folder of checkpoints, and makes it where there is none.

        Args:
            folder: Where they lie.
            best_steps: Tells, at each save, which of the earlier ones to keep beside the last.
            only_read: Whether to leave all as it is. Otherwise what was not saved to its end is
                removed; where another process is just saving, that would be its checkpoint.
        """
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "position": ocp.JsonCheckpointHandler(),
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
    def last_step(self) -> int | None:
        """The step of the last whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, position: Mapping[str, Any]) -> None:
        """Starts to save; the state may be donated as soon as this returns.

        Raises:
            InputError: This checkpoint, or the one before, could not be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(_named(state)), position=ocp.args.JsonSave(dict(position))
        )
        with self._writing():
            self._manager.save(step, args=items)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and data position of a step.

        Args:
            step: One that was saved.
            like: Arrays of the same shapes, on the devices where these shall go.

        Raises:
            InputError: The checkpoint is of another model or optimizer; the line says where.
        """
        wanted = {name: _abstract(array) for name, array in _named(like).items()}
        self._check(step, wanted)
        found = self._restore(step, wanted)
        arrays = found.state
        state = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])
        return state, found.position

    def weights(self, step: int) -> dict[str, np.ndarray]:
        """Parameters and running statistics of a step by name, for a model of whatever shape."""
        kept = {}
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        for name, stored in self._stored(step).items():
            if name.startswith(("params.", "statistics.")):
                kept[name] = jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=device)
        arrays = self._restore(step, kept).state
        return {name.split(".", 1)[1]: np.asarray(array) for name, array in arrays.items()}

    def finish(self) -> None:
        """Waits until everything is on disk; raises InputError where it cannot be."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder; raises InputError as `finish` does, but once."""
        if not self._failed:  # what is left of a failed save may wait for minutes
            with self._writing():
                self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what went wrong in the background into one line, and removes what is half there."""
        try:
            yield
        except (OSError, ValueError) as error:
            if (reason := _of_disk(error)) is None:
                raise
            self._failed = True
            for unfinished in self.folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise InputError(
                f"{self.folder}: expected to write a checkpoint, found: {reason}; mend it, and the "
                "same command goes on from the last whole one"
            ) from error

    def _stored(self, step: int) -> Mapping[str, Any]:
        return self._manager.item_metadata(step).state.tree

    def _restore(self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]) -> Any:
        placed = ocp.checkpoint_utils.construct_restore_args(wanted)
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=placed, partial_restore=True)
        items = ocp.args.Composite(state=arguments, position=ocp.args.JsonRestore())
        return self._manager.restore(step, args=items)

    def _check(self, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        found = {name: (list(a.shape), str(a.dtype)) for name, a in self._stored(step).items()}
        expected = {name: (list(a.shape), str(a.dtype)) for name, a in wanted.items()}
        names = sorted(expected.keys() | found.keys())
        other = [name for name in names if expected.get(name) != found.get(name)]
        if other:
            shown = [f"{n} (expected {expected.get(n)}, found {found.get(n)})" for n in other[:3]]
            more = f" and {len(other) - 3} more" if len(other) > 3 else ""
            raise InputError(
                f"{self.folder / str(step)}: a checkpoint of another model or optimizer: "
                f"{', '.join(shown)}{more}"
            )


class _LastAnd(checkpoint_managers.PreservationPolicy):
    """Keeps the last checkpoint and the best ones."""

    def __init__(self, best_steps: Callable[[], Iterable[int]]) -> None:
        self.best_steps = best_steps

    def should_preserve(
        self,
        checkpoints: Sequence[Any],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        """Says of each checkpoint, in order of steps, whether it is kept."""
        del context
        kept = {checkpoints[-1].step, *self.best_steps()}
        return [checkpoint.step in kept for checkpoint in checkpoints]


def _of_disk(error: Exception) -> str | None:
    """What the operating system said; None where an error is not of its making."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))  # how tensorstore tells of it
    return os.strerror(int(code[1])) if code else None


def _named(state: TrainState) -> dict[str, jax.Array]:
    """The arrays of a state by dotted name (`params.backbone.conv1.kernel`, `step`, …)."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        named[name.removesuffix(".value")] = leaf  # where a Flax variable's path ends
    return named


def _abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
