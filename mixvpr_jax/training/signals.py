"""SIGTERM and Ctrl-C as a request to stop."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from mixvpr_jax.errors import TWICE_SECONDS


class StopRequest:
    """While entered, SIGTERM and Ctrl-C only request a stop; a second one acts as usual.

    If one of several processes is asked, all stop after the same step: JAX's preemption sync point
    handles SIGTERM then, and Ctrl-C is passed on as SIGTERM.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}
        self._distributed = jax.process_count() > 1
        self._noted_at: float | None = None

    def __enter__(self) -> StopRequest:
        noted = (signal.SIGINT,) if self._distributed else (signal.SIGTERM, signal.SIGINT)
        for number in noted:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def after(self, step: int) -> bool:
        """Whether to stop after this step; every process must ask at every step."""
        if self._distributed:
            self.requested |= multihost_utils.reached_preemption_sync_point(step)
        return self.requested

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._noted_at is None:
            self._noted_at = time.monotonic()
            if self._distributed:
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                self.requested = True
        elif time.monotonic() - self._noted_at > TWICE_SECONDS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
