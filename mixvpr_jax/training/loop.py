"""A training run, from a configuration to a model; the same call again resumes it."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mixvpr_jax.data.loader import Batch, read_batches
from mixvpr_jax.distributed import is_main_process, raise_on_all_processes
from mixvpr_jax.errors import TWICE_SECONDS, InputError, heeded
from mixvpr_jax.losses import LOSSES
from mixvpr_jax.losses.mining import MINERS
from mixvpr_jax.models.vpr import empty_model
from mixvpr_jax.pretrained import save_pretrained
from mixvpr_jax.storage import AnyPath, OutOfReach, as_path, atomic_write, write_json
from mixvpr_jax.training.checkpoint import Checkpoints, DamagedCheckpoint, last_step
from mixvpr_jax.training.config import TrainConfig
from mixvpr_jax.training.log import Log, Monitor, Profiler, draw_curves
from mixvpr_jax.training.start import (
    Images,
    check_workdir,
    initial_model,
    locked_workdir,
    require_same_on_all_processes,
)
from mixvpr_jax.training.step import (
    TrainState,
    create_state,
    learning_rate_schedule,
    make_optimizer,
    make_step,
)
from mixvpr_jax.training.validation import Selection, Validation, rename_former

NUM_BEST = 3  # checkpoints kept besides the last

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        step: Steps taken, including those of earlier calls.
        total_steps: Steps of the whole run.
        model: Folder of the best model; None if the run was stopped before its end.
        metrics: The validation metrics of that model.
        metrics_before: Those before training, if `validation.before_training`.
    """

    step: int
    total_steps: int
    model: AnyPath | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_before: dict[str, float] = field(default_factory=dict)


def train(
    config: TrainConfig,
    workdir: str | os.PathLike[str],
    *,
    profiled: range = range(0),
    command: str = "",
) -> Outcome:
    """Trains to the end, or until SIGTERM or Ctrl-C, from the workdir's last checkpoint.

    Every process of a run calls this; process 0 writes. A workdir is a path or gs:// address, the
    same for all. The steps `profiled` are traced, and the model card tells the command.

    Raises:
        InputError: Wrong data, weights or workdir, before anything is written; or a step whose
            loss, gradient or parameters are not finite.
    """
    folder = as_path(workdir)
    with ExitStack() as stack:
        with raise_on_all_processes():
            require_lock = stack.enter_context(locked_workdir(folder))
        stop = stack.enter_context(StopRequest())  # before compilation, which takes long
        with raise_on_all_processes():
            check_workdir(config, folder)
            setup = Setup(config, folder)
        with raise_on_all_processes():
            sets = setup.validation.checksums
            require_same_on_all_processes(config, setup.images.checksums[0], sets, setup.model)
        with raise_on_all_processes():
            if is_main_process():
                with atomic_write(folder / "config.json") as temporary:
                    write_json(temporary, config.to_dict())
        run = Run(setup, stack, stop, require_lock)
        left = range(run.step + 1, setup.total_steps + 1)
        profiler = stack.enter_context(closing(Profiler(folder, profiled, left)))
        try:
            run.validate_if_due()
            with closing(setup.batches(run.step)) as batches:
                for batch in batches:
                    if stop.after(run.step):
                        break
                    run.take_step(batch, profiler)
                    if run.step % config.checkpoint_every_steps == 0 or run.ends_epoch:
                        run.save()
                        run.validate_if_due()
            run.save()
            has_ended = run.step == setup.total_steps
        except _Stopped:
            has_ended = False
        except OutOfReach:
            run.checkpoints.abandon()
            raise
        run.checkpoints.finish()
        if run.log.entries and is_main_process():
            draw_curves(setup.selection.comparable(run.log.entries), folder / "curves.png")
        if not has_ended:
            return Outcome(run.step, setup.total_steps)
        return run.write_best_model(command)


class _Stopped(Exception):
    """A stop request reached a validation."""


class Setup:
    """All that a run reads and builds before it writes anything."""

    def __init__(self, config: TrainConfig, workdir: AnyPath) -> None:
        self.config, self.workdir = config, workdir
        self.selection = Selection.of(config.validation)
        self.images = Images(config)
        self.steps_per_epoch = self.images.sampler.steps_per_epoch
        self.total_steps = len(self.images.batches)
        if config.model.init is None and config.optimizer.layers_to_freeze is not None:
            logger.warning("note: stages are frozen at random weights; give --model.init")
        if (warmup := config.optimizer.warmup_steps) > self.total_steps:
            logger.warning(
                "note: the run of %d steps ends in its warm-up (optimizer.warmup_steps %d)",
                *(self.total_steps, warmup),
            )
        reached = last_step(workdir)
        if reached > self.total_steps:
            raise InputError(
                f"epochs: expected {-(-reached // self.steps_per_epoch)} or more, as this run has "
                f"taken {reached} steps of {self.steps_per_epoch} an epoch; found {config.epochs}, "
                "or images that are not the run's"
            )
        if reached:
            self.model = empty_model(config.model.architecture)
        else:
            self.model = initial_model(config.model, seed=config.seed)
        self.validation = Validation(config.validation, self.model)
        self.selection = replace(self.selection, checksums=self.validation.checksums)
        self.validation.require_readable(besides=self.selection.measured_sets(workdir))
        self.optimizer = make_optimizer(config.optimizer, self.steps_per_epoch)
        self.take_step = make_step(
            self.model,
            self.optimizer,
            LOSSES[config.loss],
            MINERS[config.miner] if config.miner else None,
            self.images.mesh,
            freeze_batch_stats=config.freeze_batch_stats,
            batch_stats_per_device=config.batch_stats_per_device,
            layers_to_freeze=config.optimizer.layers_to_freeze,
            grad_cache_chunks=config.grad_cache_chunks,
            remat_blocks=config.remat_blocks,
        )

    def batches(self, start: int = 0) -> Generator[Batch]:
        """This process's share of each batch from `start`."""
        data = self.config.data
        return read_batches(
            self.images.batches, start, num_workers=data.num_workers, prefetch=data.prefetch
        )

    def learning_rates(self) -> np.ndarray:
        """[total_steps] the learning rate of each step."""
        schedule = learning_rate_schedule(self.config.optimizer, self.steps_per_epoch)
        return np.asarray(jax.vmap(schedule)(jnp.arange(self.total_steps)))

    def positions(self, step: int) -> list[dict[str, Any]]:
        """Where in the data a step begins, with each checksum of the image names."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return [{"epoch": epoch, "batch": batch, "images": x} for x in self.images.checksums]


class Run:
    """The state of a run as it trains, with its checkpoints and log."""

    def __init__(
        self, setup: Setup, stack: ExitStack, stop: StopRequest, require_lock: Callable[[], None]
    ) -> None:
        """Restores the last checkpoint and opens the log; `stack` closes both."""
        self.setup, self.stop, self.require_lock = setup, stop, require_lock
        checkpoints = Checkpoints(setup.workdir / "checkpoints", self._best_steps)
        self.checkpoints = stack.enter_context(closing(checkpoints))
        replicated = NamedSharding(setup.images.mesh, P())
        first = create_state(setup.model, setup.optimizer)
        self.step, self.state = 0, jax.device_put(first, replicated)
        if (found := self.checkpoints.restore_last(self.state)) is not None:
            self.step, self.state, position = found
            if position not in setup.positions(self.step):
                raise InputError(
                    f"{setup.config.data.folder}: expected the images of the run so far, found "
                    "others; choose another --workdir"
                )
        assert self.step or not last_step(setup.workdir), "the model is empty"
        self.saved = self.step
        with raise_on_all_processes():
            self.log = stack.enter_context(Log(setup.workdir, self.step, setup.total_steps))
        rename_former(self.log.entries, setup.config.validation)
        self.monitor = Monitor(self.log, setup.learning_rates(), setup.config.log_every_steps)

    @property
    def ends_epoch(self) -> bool:
        """Whether the last step was an epoch's last, or none was taken."""
        return self.step % self.setup.steps_per_epoch == 0

    def take_step(self, batch: Batch, profiler: Profiler) -> None:
        """Trains on a batch."""
        profiler.before(self.step + 1)
        self.state, metrics = self.setup.take_step(self.state, *self.setup.images.place(batch))
        self.step += 1
        profiler.after(self.step, metrics)
        self.monitor.add(self.step, metrics)

    def save(self) -> None:
        """Saves the state unless it is; the monitor has accepted all metrics, so it is finite."""
        if self.step == self.saved:
            return
        self.require_lock()
        self.monitor.drain()
        self.log.keep()
        self.checkpoints.save(self.step, self.state, self.setup.positions(self.step)[0])
        self.saved = self.step
        self.monitor.restart_clock()

    def validate_if_due(self) -> None:
        """Validates at the end of an epoch, if asked to also before the first; no state twice."""
        config, validation = self.setup.config, self.setup.validation
        due = self.ends_epoch and (self.step > 0 or config.validation.before_training)
        if not due or validation.metrics <= self._validated(self.step).keys():
            return

        def check_stop(_: int) -> None:
            if self.stop.requested:
                raise _Stopped

        self.log.describe("validating")
        metrics = validation(self.state, check_stop)
        self.log.write(self.step, self.setup.selection.entry(metrics))
        self.log.keep()
        self.log.describe("training")
        shown = ", ".join(f"{name} {value:.1f}" for name, value in metrics.items())
        epoch = self.step // self.setup.steps_per_epoch
        logger.info("epoch %d of %d: %s", epoch, config.epochs, shown)
        self.monitor.restart_clock()

    def write_best_model(self, command: str) -> Outcome:
        """Writes the best model to `model/`, and the command into its card."""
        best, state = self._best()
        setup, folder = self.setup, self.setup.workdir / "model"
        with raise_on_all_processes():
            if is_main_process():
                nnx.update(setup.model, *jax.device_get((state.params, state.statistics)))
                training = {"command": command, **setup.config.to_dict()}
                save_pretrained(setup.model, folder, training=training)
        metrics, before = self._validated(best), self._validated(0)
        return Outcome(self.step, setup.total_steps, folder, metrics, before)

    def _best(self) -> tuple[int, TrainState]:
        """The best step with an undamaged checkpoint, and its state; else the last step."""
        selection, best = self.setup.selection, self._best_steps()
        ranked = selection.ranked(self.log.entries)
        if ranked and ranked[0] not in best:
            logger.warning(
                "note: the checkpoint of step %d, the best by %s, is no longer there",
                *(ranked[0], selection.metric),
            )
        for step in best:
            if step == self.step:
                break
            try:
                return step, self.checkpoints.restore(step, self.state)[0]
            except DamagedCheckpoint as error:
                logger.warning("%s: taking the next best", error)
        return self.step, self.state

    def _best_steps(self) -> list[int]:
        """The best steps that have a checkpoint, best first."""
        ranked = self.setup.selection.ranked(self.log.entries)
        return [step for step in ranked if step in set(self.checkpoints.steps)][:NUM_BEST]

    def _validated(self, step: int) -> dict[str, float]:
        return self.setup.selection.measured(self.log.entries, step)


class StopRequest:
    """While entered, SIGTERM and Ctrl-C only request a stop; a second one acts as usual.

    With several processes, JAX's preemption sync point handles SIGTERM, and all stop after the
    same step; Ctrl-C is passed on as SIGTERM. Outside the main thread signals act as usual.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}
        self._distributed = jax.process_count() > 1
        self._noted_at: float | None = None

    def __enter__(self) -> StopRequest:
        noted = (signal.SIGINT,) if self._distributed else (signal.SIGTERM, signal.SIGINT)
        for number in set(noted).intersection(heeded()):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def after(self, step: int) -> bool:
        """Whether to stop after this step; every process must ask at every step."""
        if self._distributed:
            self.requested |= multihost_utils.reached_preemption_sync_point(step)
        return self.requested

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._noted_at is None:
            self._noted_at = time.monotonic()
            if self._distributed:
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                self.requested = True
        elif time.monotonic() - self._noted_at > TWICE_SECONDS:
            self.__exit__()
            signal.raise_signal(number)
