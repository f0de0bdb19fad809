"""The mesh of devices that a batch is divided over, and what processes tell each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from mixvpr_jax.errors import InputError

AXIS = "data"


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the one axis `data` over these devices, by default all of all processes."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def gather(rows: np.ndarray) -> list[np.ndarray]:
    """The arrays of all processes, in their order, on each of them.

    Args:
        rows: This process's array [n, …]; n may differ from process to process, the rest not.
    """
    if jax.process_count() == 1:
        return [rows]
    counts = multihost_utils.process_allgather(np.array(len(rows)))
    padded = np.zeros((int(counts.max()), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    together = np.asarray(multihost_utils.process_allgather(padded))
    return [part[:count] for part, count in zip(together, counts.tolist(), strict=True)]


def gather_text(text: str) -> list[str]:
    """The texts of all processes, in their order, on each of them."""
    parts = gather(np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8))
    return [part.tobytes().decode("utf-8", "surrogateescape") for part in parts]


@contextmanager
def together() -> Iterator[None]:
    """All processes leave it together, and what keeps one from it is raised by all.

    Raises:
        InputError: As one of them raised it; the first of them, where several did.
    """
    problem: InputError | None = None
    try:
        yield
    except InputError as error:
        problem = error
    told = gather_text(str(problem or "")) if jax.process_count() > 1 else []
    if problem is not None:
        raise problem
    for line in filter(None, told):
        raise InputError(line)
