"""Orbax checkpoints of a run: model, optimizer, step and data position."""

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
        """Opens or creates a folder of checkpoints.

        Args:
            folder: The folder.
            best_steps: Called at each save: the steps to keep besides the last.
            only_read: Change nothing. Otherwise temporary files are removed, even those that
                another process is just writing.
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
        """The steps of the complete checkpoints."""
        return self._manager.all_steps()

    @property
    def last_step(self) -> int | None:
        """The step of the last complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, position: Mapping[str, Any]) -> None:
        """Saves in the background; the state may be donated as soon as this returns.

        Raises:
            InputError: This checkpoint or the one before could not be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(_named(state)),
            position=ocp.args.JsonSave(dict(position)),
            checksums=ocp.args.JsonSave(checksums(_named(state), position)),
        )
        with self._writing():
            self._manager.save(step, args=items)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and data position of a saved step.

        Args:
            step: The step.
            like: A state of the same shapes, on the devices to restore to.

        Raises:
            InputError: The checkpoint is of another model or optimizer, or this machine could not
                read it (open files, memory, permissions, a failing disk).
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
        """Step, state and position of the last undamaged checkpoint; None if none was saved.

        Damaged ones after it are moved aside, as their steps will be saved again.

        Raises:
            InputError: As `restore`; or all are damaged.
        """
        damaged: list[int] = []
        for step in sorted(self.steps, reverse=True):
            try:
                state, position = self.restore(step, like)
            except DamagedCheckpoint as error:
                logger.warning("%s: going on from the one before", error)
                damaged.append(step)
                continue
            if damaged:
                self._move_aside(damaged)
            return step, state, position
        if damaged:
            raise InputError(
                f"{self.folder}: expected a whole checkpoint, found {len(damaged)} that are "
                "damaged; start again in another --workdir, or bring them back from a copy"
            )
        return None

    def _move_aside(self, steps: Sequence[int]) -> None:
        if is_main_process():
            for step in steps:
                target = self.folder.with_name("damaged_checkpoints") / f"{step}_{time.time_ns()}"
                move_folder(self.folder / str(step), target)
        gather_text("moved")  # a barrier
        self._manager.reload()

    def weights(self, step: int) -> dict[str, np.ndarray]:
        """Parameters and batch_stats of a step by name, for a model of any shape.

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
        """Waits until everything is written; raises InputError if it cannot be."""
        with self._writing():
            self._manager.wait_until_finished()

    def abandon(self) -> None:
        """Makes `close` wait for nothing: with a store out of reach, that may take long."""
        self._failed = True

    def close(self) -> None:
        """Waits and closes the folder; raises InputError as `finish` does, but only once."""
        if not self._failed:  # what is left of a failed save may wait for minutes
            with self._writing():
                self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a failed save into one line and removes its temporary files."""
        try:
            yield
        except Exception as error:
            told = of_machine if is_local(self.folder) else unreachable
            of_jax = isinstance(error, jax.errors.JaxRuntimeError)  # another process may have died
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
        """Tells a damaged checkpoint from a machine that cannot read it.

        Raises:
            DamagedCheckpoint: Its content does not fit, or a file is missing.
            InputError: Anything else: the checkpoint may be undamaged.
        """
        folder = self.folder / str(step)
        try:
            with reaching(folder, but=FileNotFoundError):  # a missing object is damage
                yield
        except InputError:
            raise
        except Exception as error:  # Orbax raises many kinds, Exception among them
            reason = of_machine(error, reading=True) or unreadable(folder)
            if reason is None:
                raise DamagedCheckpoint(f"{folder}: damaged ({in_a_line(error)})") from error
            raise InputError(
                f"{folder}: expected to read the checkpoint, found: {reason}; nothing was moved: "
                "mend it, and the same command goes on (or, to lose the steps since the one "
                "before, move this one away)"
            ) from error

    def _stored(self, step: int) -> Mapping[str, Any]:
        """The metadata of each array; the manager's own way hides why it is missing."""
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
    """The step of a run's last checkpoint, 0 without one."""
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
