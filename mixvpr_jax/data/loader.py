"""Batches of training images, decoded ahead of their use by grain's threads or processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mixvpr_jax.data.rand_augment import rand_augment
from mixvpr_jax.data.sampling import Sampler
from mixvpr_jax.data.sources import Source
from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import Preprocess, decode_image

MAX_WORKERS = 8  # decode some 7,000 images a second, more than any one accelerator trains on

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """A process's share of the images of one step.

    Attributes:
        images: [b, h, w, 3] uint8: finished by the host, or as decoded, each in the upper left
            corner of a canvas; zeros for padding.
        sizes: [b, 2] int32, their heights and widths there.
        operations: [b, k] int8, augmentations still to do, see `draw_operations`; 0 for none.
        labels: [b] int32, a place an image; -1 for padding and for images that cannot be read.
        unreadable: The latter, by their index in the source, and why, a line each.
    """

    images: np.ndarray
    sizes: np.ndarray
    operations: np.ndarray
    labels: np.ndarray
    unreadable: tuple[tuple[int, str], ...]


@dataclass(frozen=True, eq=False)
class Batches:
    """A process's share of every batch by step: what grain reads from.

    Attributes:
        source: Where images come from.
        sampler: Which ones, in which order.
        image_size: Height and width that the model takes.
        batch_size: What the batches of all processes together are padded to.
        num_steps: Of the whole run.
        on_host: Whether images are resized and augmented here, not on the accelerator.
        process_index: Which process this is.
        process_count: Of how many; each reads a like part of the rows.
        shared: Whether batches are made in memory that processes share: what a worker hands over
            is not copied then.
    """

    source: Source
    sampler: Sampler
    image_size: tuple[int, int]
    batch_size: int
    num_steps: int
    on_host: bool
    process_index: int = 0
    process_count: int = 1
    shared: bool = False

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, index: int) -> Batch:
        images, labels = self.sampler.batch(index)
        operations = self.sampler.operations(index, len(images))
        share = self.batch_size // self.process_count
        own = slice(self.process_index * share, (self.process_index + 1) * share)
        return self._read(images[own], labels[own], operations[own], share)

    def _read(
        self, images: np.ndarray, labels: np.ndarray, operations: np.ndarray, rows: int
    ) -> Batch:
        canvas, unreadable = self._canvas, []
        batch = Batch(
            self._zeros((rows, *canvas, 3)),
            np.ones((rows, 2), np.int32),
            np.zeros((rows, operations.shape[1]), np.int8),
            np.full(rows, -1, np.int32),
            (),
        )
        for row, image in enumerate(images.tolist()):
            try:
                pixels = self._decoded(image, operations[row])
            except InputError as error:
                unreadable.append((image, str(error)))
                continue
            height, width, _ = pixels.shape
            batch.images[row, :height, :width] = pixels
            batch.sizes[row] = height, width
            batch.labels[row] = labels[row]
            if not self.on_host:
                batch.operations[row] = operations[row]
        return batch._replace(unreadable=tuple(unreadable))

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
        resized = Preprocess(self.image_size).resize(decoded)
        if not self.on_host or not operations.any():
            return resized
        magnitude = self.sampler.config.augmentation.magnitude
        return np.asarray(rand_augment(Image.fromarray(resized), operations, magnitude))

    def _zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        if not self.shared:
            return np.zeros(shape, np.uint8)
        from grain.multiprocessing import SharedMemoryArray

        return SharedMemoryArray(shape, np.uint8)  # which the system fills with zeros

    @property
    def _canvas(self) -> tuple[int, int]:
        if self.on_host:
            return self.image_size
        height, width = self.sampler.config.augmentation.canvas
        return max(height, self.image_size[0]), max(width, self.image_size[1])


def read_batches(
    batches: Batches, start: int = 0, *, num_workers: int | None = None, prefetch: int = 2
) -> Generator[Batch]:
    """The batches from a step on, in order, decoded ahead of their use.

    Args:
        batches: Says what each is.
        start: The first step.
        num_workers: Processes that decode; 0 for threads, None for `default_num_workers`.
        prefetch: Batches that each worker keeps ready.

    Raises:
        InputError: More images cannot be read than the configuration allows.
        RuntimeError: A worker died.
    """
    workers = default_num_workers() if num_workers is None else num_workers
    skipped, allowed = set[int](), batches.sampler.config.max_unreadable
    with closing(_grain_iterator(batches, start, workers, prefetch)) as iterator:
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


def default_num_workers() -> int:
    """Processes for the processors at hand; 0 where these are few.

    Threads copy nothing between processes and take half the time for it (benchmarks/README.md), but
    Python's lock lets a few of them work at once only.
    """
    processors = _num_processors()
    return 0 if processors < 8 else min(processors - 2, MAX_WORKERS)


def _num_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _grain_iterator(batches: Batches, start: int, workers: int, prefetch: int) -> Any:
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # else grain's workers die of unparsed flags
    dataset = grain.MapDataset.source(replace(batches, shared=workers > 0))[start:]
    if workers:
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=prefetch)
        reads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        return iter(dataset.to_iter_dataset(reads).mp_prefetch(options, _start_worker))
    threads = min(_num_processors(), MAX_WORKERS)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(threads, max(threads, prefetch))))


def _start_worker(worker: int, num_workers: int) -> None:
    """Lets the process that trains decide when its workers end, and has them end with it."""
    del worker, num_workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process that is killed cannot end its workers: they would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
