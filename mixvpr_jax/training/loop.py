"""A training run, from a configuration and a folder to a model; the same call again resumes it.

In the working folder config.json says what is trained, metrics.jsonl what was measured, and
checkpoints/ holds where it stands. A checkpoint is saved before the validation of its epoch:
whatever ends the process, the next one goes on with what was still to do.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mixvpr_jax.data.device_augmentation import make_input, runs_on_host
from mixvpr_jax.data.loader import Batch, Batches, read_batches
from mixvpr_jax.data.sampling import Sampler
from mixvpr_jax.data.sources import open_source
from mixvpr_jax.distributed import data_mesh, is_main_process, raise_on_all_processes
from mixvpr_jax.errors import InputError
from mixvpr_jax.losses import LOSSES
from mixvpr_jax.losses.mining import MINERS
from mixvpr_jax.models.vpr import create_model
from mixvpr_jax.pretrained import save_pretrained
from mixvpr_jax.storage import AnyPath, OutOfReach, as_path
from mixvpr_jax.training.checkpoint import Checkpoints, DamagedCheckpoint, last_step
from mixvpr_jax.training.config import TrainConfig
from mixvpr_jax.training.initial import initial_model
from mixvpr_jax.training.log import Log, draw_curves, measured_sets
from mixvpr_jax.training.monitor import Monitor, Profiler
from mixvpr_jax.training.optimizer import learning_rate_schedule, make_optimizer
from mixvpr_jax.training.signals import StopRequest
from mixvpr_jax.training.step import TrainState, create_state, make_step
from mixvpr_jax.training.validation import Selection, Validation, rename_former
from mixvpr_jax.training.workdir import check_workdir, claim_workdir, locked_workdir

NUM_BEST = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        step: How many steps were taken, those of earlier calls included.
        total_steps: How many the run has.
        model: The folder of the best model; None where the run was asked to stop before its end.
        metrics: What validation measured of that model.
        metrics_before: What it measured before training, where that was wanted.
    """

    step: int
    total_steps: int
    model: AnyPath | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_before: dict[str, float] = field(default_factory=dict)


def train(
    config: TrainConfig, workdir: str | os.PathLike[str], *, profiled: range = range(0)
) -> Outcome:
    """Trains until the end, or until SIGTERM or Ctrl-C, from wherever the folder stands.

    Where several processes run, each calls this; the first one writes.

    Args:
        config: What is trained.
        workdir: Where, a path or gs:// address; all processes see the same folder.
        profiled: Steps of which a trace is written into the folder.

    Raises:
        InputError: Wrong data, weights or folder, before anything is written; or a step whose loss,
            gradient or parameters are not finite.
    """
    folder = as_path(workdir)
    with ExitStack() as stack:
        with raise_on_all_processes():
            require_lock = stack.enter_context(locked_workdir(folder))
        stop = stack.enter_context(StopRequest())  # from the start: compiling takes its time
        with raise_on_all_processes():
            check_workdir(config, folder)
            trainer = Trainer(config, folder)
        with raise_on_all_processes():
            claim_workdir(config, folder)
        trainer.open(stack, stop, require_lock)
        trainer.profiler = stack.enter_context(closing(Profiler(folder, profiled)))
        return trainer.run()


class _Stopped(Exception):
    """A validation that was asked to stop."""


class Trainer:
    """What a run is made of; see `train`."""

    require_lock: Callable[[], None]
    checkpoints: Checkpoints
    log: Log
    stop: StopRequest
    profiler: Profiler
    state: TrainState
    step: int

    def __init__(self, config: TrainConfig, workdir: AnyPath) -> None:
        """Reads and builds everything, and writes nothing."""
        self.config, self.workdir = config, workdir
        self.selection = Selection.of(config.validation)
        self.source = open_source(config.data)
        self.sampler = Sampler(self.source.places, config.data, config.seed)
        self.steps_per_epoch = self.sampler.steps_per_epoch
        self.total_steps = config.epochs * self.steps_per_epoch
        self.mesh = data_mesh()
        if config.model.init is None and config.optimizer.layers_to_freeze is not None:
            logger.warning("note: stages are frozen at random weights; give --model.init")
        reached = last_step(workdir)
        if reached > self.total_steps:
            raise InputError(
                f"epochs: expected {-(-reached // self.steps_per_epoch)} or more, as this run has "
                f"taken {reached} steps of {self.steps_per_epoch} an epoch; found {config.epochs}"
            )
        if reached:
            self.model = create_model(config.model.architecture)
        else:
            self.model = initial_model(config.model, seed=config.seed)
        self.validation = Validation(config.validation, self.model)
        self.validation.require_readable(besides=measured_sets(workdir))
        self.optimizer = make_optimizer(config.optimizer, self.steps_per_epoch)
        self.take_step = make_step(
            self.model,
            self.optimizer,
            LOSSES[config.loss],
            MINERS[config.miner] if config.miner else None,
            self.mesh,
            freeze_batch_stats=config.freeze_batch_stats,
            batch_stats_per_device=config.batch_stats_per_device,
            layers_to_freeze=config.optimizer.layers_to_freeze,
            grad_cache_chunks=config.grad_cache_chunks,
        )

    def open(self, stack: ExitStack, stop: StopRequest, require_lock: Callable[[], None]) -> None:
        """Opens checkpoints and log at the last checkpoint; the stack closes them."""
        checkpoints = Checkpoints(self.workdir / "checkpoints", self.best_steps)
        self.checkpoints = stack.enter_context(closing(checkpoints))
        everywhere = NamedSharding(self.mesh, P())
        self.state = jax.device_put(create_state(self.model, self.optimizer), everywhere)
        self.step = 0
        if (found := self.checkpoints.restore_last(self.state)) is not None:
            self.step, self.state, position = found
            if position != self._position(self.step):
                raise InputError(
                    f"{self.config.data.folder}: expected the images of the run so far, found "
                    "others; choose another --workdir"
                )
        with raise_on_all_processes():
            self.log = stack.enter_context(closing(Log(self.workdir, self.step, self.total_steps)))
        rename_former(self.log.entries, self.config.validation)
        self.stop, self.require_lock = stop, require_lock

    def run(self) -> Outcome:
        """Takes the steps that are left."""
        try:
            self._validate_if_due()
            self._take_steps()
            done = self.step == self.total_steps
        except _Stopped:
            done = False
        except OutOfReach:
            self.checkpoints.abandon()
            raise
        self.checkpoints.finish()
        if self.log.entries and is_main_process():
            draw_curves(self.log.entries, self.workdir / "curves.png")
        return self._finish() if done else Outcome(self.step, self.total_steps)

    def batches(self, start: int = 0) -> Generator[Batch]:
        """This process's share of the steps from `start` on, padded to fit the devices."""
        data, parts = self.config.data, self.mesh.size * self.config.grad_cache_chunks
        batches = Batches(
            self.source,
            self.sampler,
            self.model.config.image_size,
            -(-data.batch_size // parts) * parts,
            self.total_steps,
            on_host=runs_on_host(data.augmentation),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            interpolation=self.model.config.interpolation,
        )
        return read_batches(batches, start, num_workers=data.num_workers, prefetch=data.prefetch)

    def learning_rates(self) -> np.ndarray:
        """The learning rate of every step."""
        schedule = learning_rate_schedule(self.config.optimizer, self.steps_per_epoch)
        return np.asarray(jax.vmap(schedule)(jnp.arange(self.total_steps)))

    def best_steps(self) -> list[int]:
        """Of the checkpoints that are there the best, the best first."""
        there = set(self.checkpoints.steps)
        ranked = self.selection.ranked(self.log.entries)
        return [step for step in ranked if step in there][:NUM_BEST]

    def _take_steps(self) -> None:
        monitor = Monitor(self.log, self.learning_rates(), self.config.log_every_steps)
        augmentation, saved = self.config.data.augmentation, self.step
        model = self.model.config
        place = make_input(augmentation, model.image_size, self.mesh, model.interpolation)
        with closing(self.batches(self.step)) as batches:
            for batch in batches:
                if self.stop.after(self.step):
                    break
                self.profiler.before(self.step + 1)
                self.state, metrics = self.take_step(self.state, *place(batch))
                self.step += 1
                self.profiler.after(self.step, metrics)
                monitor.add(self.step, metrics)
                if self._is_time_to_save():
                    saved = self._save(monitor)
                    self._validate_if_due()
                    monitor.restart_clock()
        if self.step > saved:
            self._save(monitor)

    def _is_time_to_save(self) -> bool:
        every = self.config.checkpoint_every_steps
        return self.step % self.steps_per_epoch == 0 or self.step % every == 0

    def _save(self, monitor: Monitor) -> int:
        """Saves the state, which is known to be finite once the monitor has read all metrics."""
        self.require_lock()
        monitor.drain()
        self.log.keep()
        self.checkpoints.save(self.step, self.state, self._position(self.step))
        return self.step

    def _validate_if_due(self) -> None:
        """Validates after each epoch, where wanted also before the first, but no state twice."""
        due = self.step > 0 or self.config.validation.before_training
        if not due or self.step % self.steps_per_epoch or not self.validation.sets:
            return
        if self.validation.metrics <= self._validated(self.step).keys():
            return

        def check_stop(_: int) -> None:
            if self.stop.requested:
                raise _Stopped

        self.log.describe("validating")
        metrics = self.validation(self.state, check_stop)
        self.log.write(self.step, self.selection.entry(metrics))
        self.log.keep()
        self.log.describe("training")
        epoch = self.step // self.steps_per_epoch
        shown = ", ".join(f"{name} {value:.1f}" for name, value in metrics.items())
        logger.info("epoch %d of %d: %s", epoch, self.config.epochs, shown)

    def _finish(self) -> Outcome:
        """Writes the best model."""
        best, state = self._best()
        with raise_on_all_processes():
            if is_main_process():
                params, statistics = jax.device_get((state.params, state.statistics))
                nnx.update(self.model, params, statistics)
                save_pretrained(self.model, self.workdir / "model")
        model, found = self.workdir / "model", self._validated
        return Outcome(self.step, self.total_steps, model, found(best), found(0))

    def _best(self) -> tuple[int, TrainState]:
        """The best step and its state; the last one's, where no checkpoint of a better is whole."""
        best, ranked = self.best_steps(), self.selection.ranked(self.log.entries)
        if ranked and ranked[0] not in best:
            logger.warning(
                "note: the checkpoint of step %d, the best by %s, is no longer there: taking "
                "another one",
                *(ranked[0], self.selection.metric),
            )
        for step in best:
            if step == self.step:
                break
            try:
                return step, self.checkpoints.restore(step, self.state)[0]
            except DamagedCheckpoint as error:
                logger.warning("%s: taking another one", error)
        return self.step, self.state

    def _validated(self, step: int) -> dict[str, float]:
        """What validation measured after a step."""
        return self.selection.measured(self.log.entries, step)

    def _position(self, step: int) -> dict[str, Any]:
        """Where in the data a step begins, and a checksum of what the data are."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return {"epoch": epoch, "batch": batch, "images": self._checksum}

    @cached_property
    def _checksum(self) -> str:
        """Of the names of all images, in order."""
        return f"{zlib.crc32(self.source.places.names.tobytes()):08x}"
