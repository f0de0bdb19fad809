"""Which of several processes this is, and how it ends; known before JAX is imported."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from mixvpr_jax.errors import InputError, run_command


@dataclass(frozen=True)
class ProcessConfig:
    """This process among several, if the environment does not say; give all fields or none.

    Attributes:
        coordinator: Address of process 0, as host:port; the port must be free there.
        processes: Number of processes.
        process_id: Index of this process, from 0.
    """

    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        if self.coordinator is None or self.processes is None or self.process_id is None:
            if (self.coordinator, self.processes, self.process_id) != (None, None, None):
                raise InputError(
                    "expected --coordinator, --processes and --process-id, or none of them"
                )
            return
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise InputError(f"coordinator: expected host:port, found {self.coordinator!r}")
        if not 0 <= self.process_id < self.processes:
            raise InputError(
                f"process_id: expected 0 to {self.processes - 1}, found {self.process_id}"
            )


ALONE = ProcessConfig()  # unless the environment says otherwise


def run_and_leave(main: Callable[[], None]) -> NoReturn:
    """Runs a command and ends the process with its exit status."""
    try:
        run_command(main)
    except SystemExit as wanted:
        leave(int(wanted.code or 0))
    except BaseException:
        traceback.print_exc()
        leave(1)
    leave(0)


def leave(status: int) -> NoReturn:
    """Ends the process at once, without waiting minutes for threads that block on others or I/O."""
    for worker in multiprocessing.active_children():
        worker.kill()  # SIGTERM does not reach one that is suspended
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
