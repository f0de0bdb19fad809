"""A trace of some steps, for TensorBoard's profile page or XProf."""

from __future__ import annotations

import re
from typing import Any

import jax

from mixvpr_jax.errors import InputError
from mixvpr_jax.stores import AnyPath
from mixvpr_jax.training.mirror import Mirror


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
        """Takes the folder, which gets plugins/profile/…, and the steps, none in an empty range."""
        self._folder, self._steps, self._mirror = folder, steps, None

    def before(self, step: int) -> None:
        """Starts the trace, if it begins with this step."""
        if step in self._steps and self._mirror is None:
            self._mirror = Mirror(self._folder)
            jax.profiler.start_trace(self._mirror.folder)

    def after(self, step: int, result: Any) -> None:
        """Ends the trace, if this step was the last of it, once its result is there."""
        if self._mirror is not None and step + 1 not in self._steps:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends the trace, if it is still on."""
        if self._mirror is not None:
            jax.profiler.stop_trace()
            self._mirror.close()
            self._mirror = None
