"""Logs the metrics of steps without stalling the device, and stops a run that diverges."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from typing import Any

import jax
import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath
from mixvpr_jax.training.log import Log, Mirror
from mixvpr_jax.training.step import Metrics


class Monitor:
    """Reads each step's metrics once the next step has started."""

    def __init__(self, log: Log, rates: np.ndarray, log_every_steps: int) -> None:
        """Starts the clock; `rates` [total_steps] holds the learning rate of each step."""
        self._log = log
        self._rates = rates
        self._log_every_steps = log_every_steps
        self._waiting: deque[tuple[int, Metrics]] = deque()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Restarts the measurement of images per second."""
        self._images, self._since = 0, time.perf_counter()

    def add(self, step: int, metrics: Metrics) -> None:
        """Queues the metrics of a step that has started, and reads those of the step before.

        Raises:
            InputError: The loss, gradient or parameters of that step were not finite.
        """
        self._waiting.append((step, metrics))
        if len(self._waiting) > 1:
            self._read()

    def drain(self) -> None:
        """Reads all queued metrics."""
        while self._waiting:
            self._read()

    def _read(self) -> None:
        step, metrics = self._waiting.popleft()
        values = {name: float(value) for name, value in metrics.items()}
        self._check_finite(step, values)
        self._images += round(values.pop("images"))
        rate = float(self._rates[step - 1])
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        speed = self._images / elapsed
        shown = {
            "loss": f"{values['loss']:.3f}",
            "accuracy": f"{values['batch_accuracy']:.2f}",
            "lr": f"{rate:.2e}",
            "images/s": f"{speed:.0f}",
        }
        self._log.advance(shown)
        if step % self._log_every_steps == 0:
            self._log.write(step, {**values, "learning_rate": rate, "images_per_second": speed})
            self.restart_clock()

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if not broken:
            return
        since = [step]
        for later, metrics in self._waiting:
            if not all(math.isfinite(float(value)) for value in metrics.values()):
                since.append(later)
        raise InputError(
            f"step {', '.join(map(str, since))}: {', '.join(broken)} not finite, at learning rate "
            f"{self._rates[step - 1]:.3g}; no such state was saved: start again in a new folder "
            "with a lower --optimizer.learning-rate"
        )


def steps_to_profile(text: str) -> range:
    """The steps of "FIRST:LAST", both of them included.

    Raises:
        InputError: Another form, or no step.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    steps = range(int(found[1]), int(found[2]) + 1) if found else range(0)
    if not steps or steps.start < 1:
        raise InputError(f"profile_steps: expected FIRST:LAST, such as 20:25, found {text!r}")
    return steps


class Profiler:
    """Traces steps; each process writes what its own devices and threads did."""

    def __init__(self, folder: AnyPath, steps: range) -> None:
        """Traces `steps`, perhaps none, into plugins/profile/… of `folder`."""
        self._folder, self._steps, self._mirror = folder, steps, None

    def before(self, step: int) -> None:
        """Starts the trace if this is its first step."""
        if step in self._steps and self._mirror is None:
            self._mirror = Mirror(self._folder)
            jax.profiler.start_trace(self._mirror.folder)

    def after(self, step: int, result: Any) -> None:
        """Ends the trace after its last step, once the step's result is there."""
        if self._mirror is not None and step + 1 not in self._steps:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still on."""
        if self._mirror is not None:
            jax.profiler.stop_trace()
            self._mirror.close()
            self._mirror = None
