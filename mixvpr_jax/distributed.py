"""The mesh of devices that a batch is divided over, and what processes tell each other."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from mixvpr_jax.errors import InputError, explain, platform_error, run_command

AXIS = "data"
PIECE_BYTES = 2**28  # that a process sends at a time


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the one axis `data` over these devices, by default all of all processes."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def gather(rows: np.ndarray) -> list[np.ndarray]:
    """The arrays of all processes, in their order, on each of them; exactly, of any dtype.

    They travel as bytes, since JAX halves 64-bit numbers, and in pieces, which bounds what they
    take on the device.

    Args:
        rows: This process's array [n, …]; n may differ from process to process, the rest not.
    """
    if jax.process_count() == 1:
        return [rows]
    counts = _gather_bytes(np.array([len(rows)], np.int64).view(np.uint8)).view(np.int64).ravel()
    own = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    sizes = [int(count) * math.prod(rows.shape[1:]) * rows.itemsize for count in counts]
    parts = [np.zeros(size, np.uint8) for size in sizes]
    for start in range(0, max(sizes), PIECE_BYTES):
        piece = np.zeros(min(PIECE_BYTES, max(sizes) - start), np.uint8)
        some = own[start : start + PIECE_BYTES]
        piece[: len(some)] = some
        for part, found in zip(parts, _gather_bytes(piece), strict=True):
            place = part[start : start + PIECE_BYTES]
            place[:] = found[: len(place)]
    return [
        part.view(rows.dtype).reshape(int(count), *rows.shape[1:])
        for part, count in zip(parts, counts, strict=True)
    ]


def _gather_bytes(own: np.ndarray) -> np.ndarray:
    """[n] uint8 of each process → [processes, n]."""
    return np.asarray(multihost_utils.process_allgather(own))


def gather_text(text: str) -> list[str]:
    """The texts of all processes, in their order, on each of them."""
    parts = gather(np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8))
    return [part.tobytes().decode("utf-8", "surrogateescape") for part in parts]


class OtherFailed(Exception):
    """What ended another process, and is a fault of this code: that process shows where."""


@contextmanager
def raise_on_all_processes() -> Iterator[None]:
    """All processes leave it together, and what keeps one from it is raised by all.

    Raises:
        InputError: What a line explains (see `explain`); of several the first process's.
        OtherFailed: Another process's error of another kind.
    """
    problem: Exception | None = None
    try:
        yield
    except Exception as error:
        problem = error
    told = gather_text(_told(problem)) if jax.process_count() > 1 else []
    if problem is not None:
        raise problem
    for index, (status, _, line) in enumerate(text.partition(" ") for text in told):
        if line:
            raise InputError(line) if status == "2" else OtherFailed(f"process {index}: {line}")


def _told(problem: Exception | None) -> str:
    """Exit status and line; "" where nothing went wrong."""
    if problem is None:
        return ""
    status, line = explain(problem) or (1, f"{type(problem).__name__}: {problem}")
    return f"{status} {line.removeprefix('error: ')}"


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


def is_main_process() -> bool:
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


@dataclass(frozen=True)
class ProcessConfig:
    """Which of several processes this is, where the environment does not tell; all or none.

    Attributes:
        coordinator: Address of process 0, as host:port; the port must be free there.
        processes: How many there are.
        process_id: Which this is, from 0 on.
    """

    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        values = (self.coordinator, self.processes, self.process_id)
        if all(value is None for value in values):
            return
        if self.coordinator is None or self.processes is None or self.process_id is None:
            raise InputError(
                "expected --coordinator, --processes and --process-id, or none of them"
            )
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise InputError(f"coordinator: expected host:port, found {self.coordinator!r}")
        if not 0 <= self.process_id < self.processes:
            raise InputError(
                f"process_id: expected 0 to {self.processes - 1}, found {self.process_id}"
            )


ALONE = ProcessConfig()  # or as the environment says
