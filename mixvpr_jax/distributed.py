"""Several devices and processes: configuration, mesh, exchange of data, start and end.

Each process runs the same program; process 0 alone writes files and logs.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from mixvpr_jax.checks import differences
from mixvpr_jax.errors import InputError, explain, platform_error, text_of
from mixvpr_jax.processes import ProcessConfig, leave

AXIS = "data"
PIECE_BYTES = 2**28  # sent by a process at a time
HEARTBEAT_SECONDS = 40  # of silence from a process, after which the others end
START_SECONDS = 300  # for all processes to start
SHUTDOWN_SECONDS = 60  # for all processes to disconnect
COUNTS = ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")  # the first that is set

logger = logging.getLogger(__name__)


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the single axis `data`, by default over the devices of all processes."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def is_main_process() -> bool:
    """Whether this is process 0, which writes files and logs."""
    return jax.process_index() == 0


def gather(rows: np.ndarray) -> list[np.ndarray]:
    """All-gathers arrays of any dtype exactly: on every process, a list in order of process.

    They travel as bytes, since JAX would halve 64-bit numbers, and in pieces, to bound the memory
    on the device.

    Args:
        rows: This process's array [n, …]; only n may differ between processes.
    """
    if jax.process_count() == 1:
        return [rows]
    count = np.array([len(rows)], np.int64).view(np.uint8)
    counts = np.asarray(multihost_utils.process_allgather(count)).view(np.int64).ravel()
    parts = [np.empty((count, *rows.shape[1:]), rows.dtype) for count in counts]
    parts[jax.process_index()] = np.ascontiguousarray(rows)
    exchange(parts)
    return parts


def exchange(parts: Sequence[np.ndarray]) -> None:
    """All-gathers in place: each process holds the array of its index and receives the others."""
    targets = {index: part.reshape(-1).view(np.uint8) for index, part in enumerate(parts)}
    own = targets.pop(jax.process_index())
    size = max(map(len, (own, *targets.values())))
    for start in range(0, size, PIECE_BYTES):
        piece = np.zeros(min(PIECE_BYTES, size - start), np.uint8)
        some = own[start : start + PIECE_BYTES]
        piece[: len(some)] = some
        gathered = np.asarray(multihost_utils.process_allgather(piece))  # [processes, n]
        for index, target in targets.items():
            target = target[start : start + PIECE_BYTES]
            target[:] = gathered[index, : len(target)]


def gather_text(text: str) -> list[str]:
    """All-gathers texts, in order of process."""
    parts = gather(np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8))
    return [part.tobytes().decode("utf-8", "surrogateescape") for part in parts]


def require_same(values: Mapping[str, Any], *, besides: Iterable[str] = ()) -> None:
    """Raises InputError if values, `besides` some, or JAX's version differ from process 0's."""
    if jax.process_count() == 1:
        return
    own = json.dumps({**values, "jax": jax.__version__}, default=str)
    first = json.loads(gather_text(own)[0])
    if other := differences(first, json.loads(own), besides=besides):
        raise InputError(
            f"process {jax.process_index()}: expected what process 0 has, found others "
            f"({'; '.join(other)}); give every process the same options and the same data"
        )


class OtherFailed(Exception):
    """A bug ended another process, which shows the traceback."""


@contextmanager
def raise_on_all_processes() -> Iterator[None]:
    """Barrier that re-raises any process's error on every process.

    Raises:
        InputError: The lowest-numbered failed process's error, if `explain` knows it.
        OtherFailed: That process's error otherwise.
    """
    problem, text = None, ""
    try:
        yield
    except Exception as error:
        problem = error
        status, line = explain(error) or (1, f"{type(error).__name__}: {error}")
        text = f"{status} {line.removeprefix('error: ')}"
    texts = gather_text(text) if jax.process_count() > 1 else []
    if problem is not None:
        raise problem
    for index, text in enumerate(texts):
        status, _, line = text.partition(" ")
        if text:
            raise InputError(line) if status == "2" else OtherFailed(f"process {index}: {line}")


@contextmanager
def joined(config: ProcessConfig, *, training: bool) -> Iterator[None]:
    """Connects to the other processes, if any, and disconnects at the end.

    If not all start within `START_SECONDS`, the process ends with one line and status 2. If one
    dies, the others end within `HEARTBEAT_SECONDS` and a step: with one line and status 3, or, if
    no operation waits for it, aborted by JAX.

    Args:
        config: The command line's settings.
        training: Whether JAX handles SIGTERM, for `reached_preemption_sync_point` (otherwise it
            ends the process), and a CPU's programs run in the thread that calls them, for
            `programs.keep_memory`.

    Raises:
        InputError: The coordinator's port is taken, JAX lacks the devices of JAX_PLATFORMS, or
            processes differ in how many they have.
    """
    jax.config.update("jax_enable_preemption_service", training)
    if training:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    alone = not _initialize(config)
    if (line := platform_error()) is not None:
        raise InputError(line)
    if alone:
        yield
        return
    counts = Counter(device.process_index for device in jax.devices()).values()
    if len(set(counts)) > 1:
        jax.distributed.shutdown()  # waits for the others, which else abort
        raise InputError(
            f"expected as many devices in each process, found {', '.join(map(str, counts))}; show "
            "each as many (CUDA_VISIBLE_DEVICES), or start a process for each device"
        )
    if not training:  # replaces JAX's own handler
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    try:
        yield
        multihost_utils.sync_global_devices("all are done")
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        of_device = isinstance(error, jax.errors.JaxRuntimeError)  # or of CPUs: Gloo's ValueError
        if ("RESOURCE_EXHAUSTED" in str(error)) if of_device else ("Gloo" not in str(error)):
            raise  # not a collective operation
        _end(
            3,
            f"process {jax.process_index()}: another process ended or is unreachable "
            f"({str(error).splitlines()[0]}); the same commands resume from the last checkpoint",
        )
    jax.distributed.shutdown()


def _initialize(config: ProcessConfig) -> bool:
    """Connects, and returns whether there are other processes."""
    count = next(filter(None, map(os.environ.get, COUNTS)), None)
    if config.coordinator is None and count == "1":
        # JAX would take one GPU, and a port of the job's number, where a second command aborts.
        return False
    if config.coordinator and config.process_id == 0:
        _require_free(int(config.coordinator.rsplit(":", 1)[1]))
    # Silences its warning about proxies, which concern the web alone.
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    # Earlier than JAX's own timeout, which aborts with a C++ stack trace.
    where = f" at {config.coordinator}" if config.coordinator else ""
    line = (
        f"expected {config.processes or 'all'} processes{where} within {START_SECONDS} s, found "
        "fewer; start the same command for each"
    )
    given_up = threading.Timer(START_SECONDS, _end, [2, line])
    given_up.daemon = True
    given_up.start()
    # JAX detects a cluster even where its coordinator is given: several tasks then divide GPUs.
    detects = config.coordinator is None or count not in (None, "1")
    warnings.filterwarnings("ignore", "Kubernetes environment detected")  # a package is missing
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process_id,
            cluster_detection_method=None if detects else "deactivate",
            initialization_timeout=START_SECONDS + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except Exception as error:
        undefined = isinstance(error, ValueError) and "coordinator_address" in str(error)
        if config.coordinator is None and undefined:
            return False  # a single process
        if isinstance(error, ValueError) and "must be defined" in str(error):
            raise InputError(
                "JAX_COORDINATOR_ADDRESS: expected a cluster that numbers its processes, found "
                "none; unset it, or give --coordinator, --processes and --process-id"
            ) from None
        if not _is_of_kubernetes(error):
            raise
        _require_single_pod(error)
        return False
    finally:
        given_up.cancel()
    return jax.process_count() > 1


def _is_of_kubernetes(error: Exception) -> bool:
    """Whether an error comes from JAX's detection of a Kubernetes job."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals["__name__"].endswith(".k8s_cluster") for frame in frames)


def _require_single_pod(error: Exception) -> None:
    """Raises InputError where JAX could not ask Kubernetes for the other pods of an indexed job."""
    found = text_of(error)[:300]
    if "JOB_COMPLETION_INDEX" in os.environ:
        raise InputError(
            f"Kubernetes: expected to learn of the job's other pods, found: {found}; let its "
            "service account read pods and jobs, or unset JOB_COMPLETION_INDEX to run alone"
        ) from None
    logger.warning("Kubernetes tells of no other processes (%s); running alone", found)


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


def _end(status: int, line: str) -> NoReturn:
    sys.stderr.write(f"error: {line}\n")
    leave(status)
