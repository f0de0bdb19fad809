"""Reads what steps report without stalling the device, logs it, and stops a run that diverges."""

from __future__ import annotations

import math
import time
from collections import deque

import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.training.log import Log
from mixvpr_jax.training.step import Metrics


class Monitor:
    """Looks at each step's metrics once the next step has been started."""

    def __init__(self, log: Log, rates: np.ndarray, log_every_steps: int) -> None:
        """Starts the clock.

        Args:
            log: Where entries go.
            rates: The learning rate of each step.
            log_every_steps: How often an entry is written.
        """
        self._log = log
        self._rates = rates
        self._log_every_steps = log_every_steps
        self._waiting: deque[tuple[int, Metrics]] = deque()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves out of the speed whatever was done since the last step."""
        self._images, self._since = 0, time.perf_counter()

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step that was started, and reads those of the one before.

        Its `images` count for the speed: those of all processes, padding left out.

        Raises:
            InputError: That one's loss, gradient or parameters were not finite.
        """
        self._waiting.append((step, metrics))
        if len(self._waiting) > 1:
            self._read()

    def drain(self) -> None:
        """Reads all that is waiting."""
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
