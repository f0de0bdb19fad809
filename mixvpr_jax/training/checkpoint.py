"""Checkpoints of a run: model, optimizer, step and data position in one, by way of Orbax."""

from __future__ import annotations

import logging
import shutil
import time
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
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath, is_local, move_folder, reaching, unreachable
from mixvpr_jax.training.damage import checksums, difference, in_a_line, of_machine, unreadable
from mixvpr_jax.training.step import TrainState

logger = logging.getLogger(__name__)


class DamagedCheckpoint(InputError):
    """A checkpoint that cannot be read, or is not what was saved."""


class Checkpoints:
    """The checkpoints of a run, by step; written in the background, each whole or not at all."""

    def __init__(
        self,
        folder: AnyPath,
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
            folder.absolute() if isinstance(folder, Path) else folder,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
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
        """The steps of the whole checkpoints."""
        return self._manager.all_steps()

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
            state=ocp.args.PyTreeSave(_named(state)),
            position=ocp.args.JsonSave(dict(position)),
            checksums=ocp.args.JsonSave(checksums(_named(state), position)),
        )
        with self._writing():
            self._manager.save(step, args=items)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and data position of a step.

        Args:
            step: One that was saved.
            like: Arrays of the same shapes, on the devices where these shall go.

        Raises:
            InputError: The checkpoint is of another model or optimizer; the line says where. Or
                this machine could not read it: open files, memory, permissions, a failing disk.
            DamagedCheckpoint: It was read, and is not what was saved.
        """
        wanted = {name: _abstract(array) for name, array in _named(like).items()}
        damage, found = "", None
        with raise_on_all_processes():  # what keeps one process from its share ends all
            try:
                with self._reading(step):
                    self._check(step, wanted)
                    found = self._restore(step, wanted)
            except DamagedCheckpoint as error:
                damage = str(error)
        for line in filter(None, gather_text(damage)):  # perhaps another process's disk
            raise DamagedCheckpoint(line)
        assert found is not None
        arrays = [found.state[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), arrays), found.position

    def restore_last(self, like: TrainState) -> tuple[int, TrainState, dict[str, Any]] | None:
        """Step, state and position of the last checkpoint that is whole; None if none was saved.

        Those after it, which are damaged, are moved aside: their steps will be saved again.

        Raises:
            InputError: As `restore`; or none of them is whole.
        """
        damaged: list[int] = []
        for step in sorted(self.steps, reverse=True):
            try:
                state, position = self.restore(step, like)
            except DamagedCheckpoint as error:
                logger.warning("%s: going on from the one before", error)
                damaged.append(step)
                continue
            self._move_aside(damaged)
            return step, state, position
        if damaged:
            raise InputError(
                f"{self.folder}: expected a whole checkpoint, found {len(damaged)} that are "
                "damaged; start again in another --workdir, or bring them back from a copy"
            )
        return None

    def _move_aside(self, steps: Sequence[int]) -> None:
        if not steps:
            return
        if is_main_process():
            for step in steps:
                target = self.folder.with_name("damaged_checkpoints") / f"{step}_{time.time_ns()}"
                move_folder(self.folder / str(step), target)
        gather_text("moved")
        self._manager.reload()

    def weights(self, step: int) -> dict[str, np.ndarray]:
        """Parameters and running statistics of a step by name, for a model of whatever shape.

        Raises:
            InputError: As `restore`.
        """
        kept = {}
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with self._reading(step):
            for name, stored in self._stored(step).items():
                if name.startswith(("params.", "statistics.")):
                    kept[name] = jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=device)
            arrays = self._restore(step, kept).state
        return {name.split(".", 1)[1]: np.asarray(array) for name, array in arrays.items()}

    def finish(self) -> None:
        """Waits until everything is on disk; raises InputError where it cannot be."""
        with self._writing():
            self._manager.wait_until_finished()

    def abandon(self) -> None:
        """Waits for nothing any more: where a store is out of reach, that may take long."""
        self._failed = True

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
        except Exception as error:
            told = of_machine if is_local(self.folder) else unreachable
            of_jax = isinstance(error, jax.errors.JaxRuntimeError)  # perhaps another process's end
            if of_jax or (reason := told(error)) is None:
                raise
            self._failed = True
            if isinstance(self.folder, Path):  # in a store, Orbax's next start removes it
                for unfinished in self.folder.glob("*.orbax-checkpoint-tmp"):
                    shutil.rmtree(unfinished, ignore_errors=True)
            raise InputError(
                f"{self.folder}: expected to write a checkpoint, found: {reason}; mend it, and the "
                "same command goes on from the last whole one"
            ) from error

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Tells what is wrong with a checkpoint from what keeps this machine from reading it.

        Raises:
            DamagedCheckpoint: It was read, and its content does not fit, or a file is missing.
            InputError: Anything else: the checkpoint may be whole.
        """
        folder = self.folder / str(step)
        try:
            # A store that is out of reach is no damage; an object that is not there is.
            with reaching(folder, but=FileNotFoundError):
                yield
        except InputError:
            raise
        except Exception as error:  # Orbax raises many kinds, and that one, too
            reason = of_machine(error, reading=True) or unreadable(folder)
            if reason is None:
                raise DamagedCheckpoint(f"{folder}: damaged ({in_a_line(error)})") from error
            raise InputError(
                f"{folder}: expected to read the checkpoint, found: {reason}; nothing was moved: "
                "mend it, and the same command goes on (or, to lose the steps since the one "
                "before, move this one away)"
            ) from error

    def _stored(self, step: int) -> Mapping[str, Any]:
        """The description of each array; the manager's own way would hide why it is not there."""
        folder = self._manager.directory / str(step) / "state"
        return ocp.PyTreeCheckpointHandler().metadata(folder).tree

    def _restore(self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]) -> Any:
        placed = ocp.checkpoint_utils.construct_restore_args(wanted)
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=placed, partial_restore=True)
        items = ocp.args.Composite(
            state=arguments, position=ocp.args.JsonRestore(), checksums=ocp.args.JsonRestore()
        )
        found: Any = self._manager.restore(step, args=items)
        if other := difference(found.checksums, checksums(found.state, found.position)):
            raise ValueError(other)
        return found

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


def last_step(workdir: AnyPath) -> int:
    """The step of the last checkpoint; 0 where there is none."""
    folder = workdir / "checkpoints"
    return max(checkpoint_steps(folder), default=0) if folder.is_dir() else 0


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


def _named(state: TrainState) -> dict[str, jax.Array]:
    """The arrays of a state by dotted name (`params.backbone.conv1.kernel`, `step`, …)."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        named[name.removesuffix(".value")] = leaf  # where a Flax variable's path ends
    return named


def _abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
