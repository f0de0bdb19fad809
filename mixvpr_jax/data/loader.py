"""Batches of training images, decoded by threads ahead of their use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixvpr_jax.data.sampling import Sampler
from mixvpr_jax.preprocess import Preprocess

AHEAD = 2  # batches that are decoded while earlier ones are used


class Batch(NamedTuple):
    """Images of one step.

    Attributes:
        images: [b, h, w, 3] uint8, resized; zeros for padding.
        labels: [b] int32, a place an image; -1 for padding.
    """

    images: np.ndarray
    labels: np.ndarray


def read_batches(
    root: Path, sampler: Sampler, preprocess: Preprocess, steps: range, batch_size: int
) -> Generator[Batch]:
    """The batches of a range of steps, whichever epochs these fall into.

    Args:
        root: The data set's folder.
        sampler: Says which images.
        preprocess: Resizes them.
        steps: Which steps, counted from the first of all.
        batch_size: What each batch is padded to; at least that of a full one.

    Raises:
        InputError: An image that cannot be read.
    """
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
    waiting: deque[tuple[list[Future[np.ndarray]], list[int]]] = deque()
    try:
        for names, labels in _plans(sampler, steps):
            futures = [pool.submit(preprocess.resize, root / name) for name in names]
            waiting.append((futures, labels))
            if len(waiting) > AHEAD:
                yield _collect(*waiting.popleft(), batch_size)
        while waiting:
            yield _collect(*waiting.popleft(), batch_size)
    finally:
        pool.shutdown(cancel_futures=True)


def _plans(sampler: Sampler, steps: range) -> Iterator[tuple[list[str], list[int]]]:
    """Names and labels of each step's images."""
    planned, plan = -1, []
    for step in steps:
        epoch, index = divmod(step, sampler.steps_per_epoch)
        if epoch != planned:
            planned, plan = epoch, sampler.epoch(epoch)
        names, labels = zip(*plan[index], strict=True)
        yield list(names), list(labels)


def _collect(futures: list[Future[np.ndarray]], labels: list[int], batch_size: int) -> Batch:
    first = futures[0].result()
    images = np.zeros((batch_size, *first.shape), np.uint8)
    for row, future in enumerate(futures):
        images[row] = future.result()
    padded = np.full(batch_size, -1, np.int32)
    padded[: len(labels)] = labels
    return Batch(images, padded)
