"""The mesh of devices that a batch is divided over, and what processes tell each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from mixvpr_jax.errors import InputError, explain

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
def together() -> Iterator[None]:
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
