"""Several processes that train or evaluate together, by JAX's own multi-controller runtime.

Each process is one host's, or one accelerator's; all run the same command. Wherever JAX knows the
environment (TPU pods, SLURM, Open MPI, Kubernetes, GKE) it finds the others by itself.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from mixvpr_jax.config import ProcessConfig
from mixvpr_jax.errors import InputError, platform_error, run_command

HEARTBEAT_SECONDS = 20  # without a sign of life from one, the others end
START_SECONDS = 300  # until all have come
SHUTDOWN_SECONDS = 10  # until all have parted


@contextmanager
def joined(config: ProcessConfig, *, preemption: bool) -> Iterator[None]:
    """Meets the other processes, if there are any, and parts from them at the end.

    When one of them dies, the others cannot go on: each ends, with a line that says so, within
    `HEARTBEAT_SECONDS` and the time of a step.

    Args:
        config: What the command line says.
        preemption: Whether SIGTERM is noted by JAX, for `reached_preemption_sync_point`; otherwise
            it ends the process.

    Where not all come within `START_SECONDS`, the process ends with a line, too.

    Raises:
        InputError: Another program has the coordinator's port, or JAX has no such devices as
            JAX_PLATFORMS asks for.
    """
    jax.config.update("jax_enable_preemption_service", preemption)
    alone = not _initialize(config)
    if (line := platform_error()) is not None:
        raise InputError(line)
    if alone:
        yield
        return
    if not preemption:  # JAX's own handler of it may be in place
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    try:
        yield
        multihost_utils.sync_global_devices("all are done")
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not _is_of_another(error):
            raise
        _end_alone(error)
    jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this process is the one that writes and tells."""
    return jax.process_index() == 0


def _initialize(config: ProcessConfig) -> bool:
    """Whether there are others."""
    if config.coordinator and config.process_id == 0:
        _require_free(int(config.coordinator.rsplit(":", 1)[1]))
    # Proxies are for the web, not for processes that talk to each other.
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    # JAX itself would end the process with a stack of C++.
    given_up = threading.Timer(START_SECONDS, _end_unmet, [config])
    given_up.daemon = True
    given_up.start()
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process_id,
            initialization_timeout=START_SECONDS + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        if config.coordinator is None and "coordinator_address" in str(error):
            return False  # no environment of several processes
        raise
    finally:
        given_up.cancel()
    return jax.process_count() > 1


def _require_free(port: int) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"coordinator: expected a free port here, found {port}: {error}; give another to "
                "all processes"
            ) from None


def _is_of_another(error: Exception) -> bool:
    """Whether an operation of all processes failed, not one of this process alone."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" not in str(error)  # memory
    return "Gloo" in str(error)  # of CPUs; an array that is looked at raises ValueError


def _end_unmet(config: ProcessConfig) -> NoReturn:
    """Ends this process, for which the others have not come."""
    where = f" at {config.coordinator}" if config.coordinator else ""
    sys.stderr.write(
        f"error: expected {config.processes or 'all'} processes{where} within {START_SECONDS} s, "
        "found that not all have come; start the same command for each\n"
    )
    leave(2)


def _end_alone(error: Exception) -> NoReturn:
    """Ends this process after another one did, whatever threads still wait for it."""
    first_line = str(error).splitlines()[0]
    sys.stderr.write(
        f"error: process {jax.process_index()}: another process ended, or cannot be reached any "
        f"more ({first_line}); the same commands go on from the last checkpoint\n"
    )
    leave(3)


def run_and_leave(main: Callable[[], None]) -> NoReturn:
    """Runs a command to the end of the process."""
    try:
        run_command(main)
    except SystemExit as wanted:
        leave(int(wanted.code or 0))
    except BaseException:
        traceback.print_exc()
        leave(1)
    leave(0)


def leave(status: int) -> NoReturn:
    """Ends the process now: threads that wait for others, or for a disk, may wait for minutes."""
    for worker in multiprocessing.active_children():
        worker.kill()  # one that was stopped would stay
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
