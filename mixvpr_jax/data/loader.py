"""Batches of training images, decoded ahead by grain's threads or processes."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np
from absl import flags
from grain.multiprocessing import SharedMemoryArray
from PIL import Image

from mixvpr_jax.data.augmentation import rand_augment
from mixvpr_jax.data.sources import Sampler, Source
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import Interpolation
from mixvpr_jax.preprocess import Preprocess, decode_image
from mixvpr_jax.workers import (
    MAX_WORKERS,
    default_num_workers,
    num_processors,
    out_of_reach_of_ctrl_c,
)

SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps it
TASK_SIZE = 10  # images of a thread's task, which costs time, too
CLOSING_SECONDS = 10  # for workers to end, unless they hang
ALIGNMENT = 64  # bytes, of what a CPU device computes on

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """A process's share of the images of one step.

    Attributes:
        images: [b, h, w, 3] uint8: finished by the host, or as decoded, each in the upper left
            corner of a canvas; zeros for padding.
        sizes: [b, 2] int32, heights and widths on the canvas.
        operations: [b, k] int8, pending augmentations, see `draw_operations`; 0 for none.
        labels: [b] int32, the place of each image; -1 for padding and unreadable images.
        unreadable: Index in the source and error line of each unreadable image.
    """

    images: np.ndarray
    sizes: np.ndarray
    operations: np.ndarray
    labels: np.ndarray
    unreadable: tuple[tuple[int, str], ...]


@dataclass(frozen=True, eq=False)
class Batches:
    """A process's share of every batch by step: grain's source.

    Attributes:
        image_size: Height and width that the model takes.
        batch_size: Global batch, to which shorter ones are padded; each process reads an equal
            part of its rows.
        num_steps: Steps of the whole run.
        on_host: Whether images are resized and augmented here, not on the accelerator.
        threads: How many decode the images of a batch.
        shared: Whether images lie in shared memory, so that workers need not copy them.
    """

    source: Source
    sampler: Sampler
    image_size: tuple[int, int]
    batch_size: int
    num_steps: int
    on_host: bool
    process_index: int = 0
    process_count: int = 1
    threads: int = 1
    shared: bool = False
    interpolation: Interpolation = "bilinear"

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, index: int) -> Batch:
        images, labels = self.sampler.batch(index)
        operations = self.sampler.operations(index, len(images))
        share = self.shape[0]
        own = slice(self.process_index * share, (self.process_index + 1) * share)
        return self._read(images[own], labels[own], operations[own])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape [b, h, w, 3] of a batch's images."""
        return self.batch_size // self.process_count, *self._canvas, 3

    def _read(self, images: np.ndarray, labels: np.ndarray, operations: np.ndarray) -> Batch:
        rows, count = self.shape[0], len(images)
        pixels = SharedMemoryArray(self.shape, np.uint8) if self.shared else _aligned(self.shape)
        batch = Batch(
            pixels,
            np.ones((rows, 2), np.int32),
            np.zeros((rows, operations.shape[1]), np.int8),
            np.full(rows, -1, np.int32),
            (),
        )

        def read(row: int) -> tuple[int, str] | None:
            try:
                decoded = self._decoded(int(images[row]), operations[row])
            except InputError as error:
                pixels[row] = 0
                return int(images[row]), str(error)
            height, width, _ = decoded.shape
            pixels[row, :height, :width] = decoded
            pixels[row, :height, width:] = 0
            pixels[row, height:] = 0
            batch.sizes[row] = height, width
            batch.labels[row] = labels[row]
            if not self.on_host:
                batch.operations[row] = operations[row]
            return None

        alone = self.threads == 1
        each = map(read, range(count)) if alone else self.pool.imap(read, range(count), TASK_SIZE)
        unreadable = tuple(found for found in each if found is not None)
        pixels[count:] = 0
        return batch._replace(unreadable=unreadable)

    @cached_property
    def pool(self) -> ThreadPool:
        """The threads that decode."""
        return ThreadPool(self.threads)

    def _decoded(self, image: int, operations: np.ndarray) -> np.ndarray:
        name = f"{self.source.root}/{self.source.places.name(image)}"
        try:
            data = self.source.read(image)
        except OSError as error:
            raise InputError(
                f"{name}: expected an image, found {error.strerror or error}"
            ) from None
        decoded, canvas = decode_image(data, name), self._canvas
        if not self.on_host and decoded.height <= canvas[0] and decoded.width <= canvas[1]:
            return np.asarray(decoded)
        resized = Preprocess(self.image_size, self.interpolation).resize(decoded)
        if not self.on_host or not operations.any():
            return resized
        magnitude = self.sampler.config.augmentation.magnitude
        return np.asarray(rand_augment(Image.fromarray(resized), operations, magnitude))

    @property
    def _canvas(self) -> tuple[int, int]:
        if self.on_host:
            return self.image_size
        height, width = self.sampler.config.augmentation.canvas
        return max(height, self.image_size[0]), max(width, self.image_size[1])


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty uint8 array that JAX takes over as it is where the device is a CPU."""
    size = math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].reshape(shape)


def read_batches(
    batches: Batches, start: int = 0, *, num_workers: int | None = None, prefetch: int = 2
) -> Generator[Batch]:
    """The batches from step `start` on, decoded ahead.

    `num_workers` and `prefetch` are those of `DataConfig`.

    Raises:
        InputError: Too many unreadable images, a batch that does not come in time, or too little
            shared memory.
        RuntimeError: A worker died.
    """
    workers = default_num_workers() if num_workers is None else num_workers
    skipped, allowed = set[int](), batches.sampler.config.max_unreadable
    ahead = _by_processes(batches, start, workers, prefetch) if workers else None
    ahead = ahead or _by_threads(batches, start, prefetch)
    with closing(_within(ahead, batches.sampler.config.timeout_seconds)) as iterator:
        for batch in iterator:
            for image, line in batch.unreadable:
                if image in skipped:  # each epoch finds it again
                    continue
                skipped.add(image)
                if len(skipped) > allowed:
                    raise InputError(
                        f"{line}; expected at most {allowed} broken images (data.max_unreadable)"
                    )
                logger.warning("skipped: %s", line)
            yield batch


def _within(batches: Generator[Batch], seconds: float) -> Generator[Batch]:
    """The same batches, taken by a thread; raises InputError where one takes longer."""

    def take() -> Batch | None:
        with out_of_reach_of_ctrl_c():  # it starts the processes that decode
            return next(batches, None)

    with ThreadPool(1) as pool:  # a daemon, so that one which hangs does not keep the process
        try:
            while (batch := pool.apply_async(take).get(seconds)) is not None:
                yield batch
        except multiprocessing.TimeoutError:
            raise InputError(
                f"no batch came for {seconds:g} s: a process that decodes hangs, or the disk; "
                "run the same command to resume (--data.timeout-seconds sets how long to wait)"
            ) from None
        finally:
            pool.apply_async(batches.close).wait(CLOSING_SECONDS)


def _by_threads(batches: Batches, start: int, prefetch: int) -> Generator[Batch]:
    batches = replace(batches, threads=min(num_processors(), MAX_WORKERS))
    pool = batches.pool  # made here: grain's threads would make one each
    reads = grain.ReadOptions(num_threads=min(prefetch, 2), prefetch_buffer_size=prefetch)
    with closing(iter(grain.MapDataset.source(batches)[start:].to_iter_dataset(reads))) as found:
        try:
            yield from found
        finally:
            pool.close()  # batches on the way are read to their end: grain waits for them


def _by_processes(batches: Batches, start: int, workers: int, prefetch: int) -> Generator[Batch]:
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # else grain's workers die of unparsed flags
    buffer = max(1, (prefetch - 1) // 2)  # on either side of grain's queue, and one between
    _require_memory(math.prod(batches.shape) * (workers * (2 * buffer + 2) + 2))
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=buffer)
    reads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    dataset = grain.MapDataset.source(replace(batches, shared=True))[start:]
    ahead = dataset.to_iter_dataset(reads).mp_prefetch(options, _start_worker)
    with closing(iter(ahead)) as found:
        yield from found


def _require_memory(num_bytes: int) -> None:
    """Raises InputError if shared memory is short, since a worker that exceeds it is killed."""
    if not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if num_bytes > free:
        raise InputError(
            f"{SHARED_MEMORY}: expected {num_bytes / 1e9:.2f} GB to share with the processes that "
            f"decode, found {free / 1e9:.2f} GB free; give more (docker run --shm-size), or fewer "
            "processes (--data.num-workers; 0 for threads)"
        )


def _start_worker(*_: int) -> None:
    """Makes workers ignore Ctrl-C and end with the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal
    if (parent := multiprocessing.parent_process()) is None:
        return

    def end_with_parent() -> None:  # a killed process cannot end its workers
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
