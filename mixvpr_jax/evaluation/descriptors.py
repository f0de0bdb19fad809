"""Descriptors of many image files: decoding in threads while the device computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jax
import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.preprocess import Preprocess, normalize

Encoder = Callable[[np.ndarray], jax.Array | np.ndarray]


@dataclass(frozen=True)
class Described:
    """Descriptors of those images that could be read.

    Attributes:
        descriptors: [n, d] float32, a row a readable image, in the given order.
        readable: [m] bool, which of the m given paths they are of.
        reasons: Why the others could not be read, a line each, in order.
    """

    descriptors: np.ndarray
    readable: np.ndarray
    reasons: tuple[str, ...]


def compile_encoder(model: VPRModel) -> jax.stages.Wrapped:
    """A compiled function of normalised images [b, h, w, 3] → descriptors [b, d].

    The weights are constants of the program, so that the compiler folds what follows from them
    alone (BatchNorm's factors among it): a tenth faster on a CPU than weights as arguments.
    """
    return jax.jit(lambda images: model(images))


def describe_images(
    encode: Encoder,
    preprocess: Preprocess,
    paths: Sequence[Path],
    *,
    batch_size: int = 16,
    skip_unreadable: bool = False,
    on_progress: Callable[[int], object] = lambda images: None,
) -> Described:
    """Computes the descriptors of image files.

    Every batch is padded to the same size, so that the program compiles once.

    Args:
        encode: Normalised images [b, h, w, 3] → descriptors [b, d], compiled.
        preprocess: The model's preprocessing.
        paths: The image files.
        batch_size: How many images the model sees at a time.
        skip_unreadable: Whether to leave out what cannot be read, and say so in the result.
        on_progress: Told the number of images done, after each batch.

    Raises:
        InputError: An image that cannot be read, unless such ones are skipped.
    """
    batch_size = min(batch_size, max(len(paths), 1))
    read = _read_ahead(preprocess, paths, 2 * batch_size)
    skipped: list[tuple[int, InputError]] = []
    images = _readable(read, skipped if skip_unreadable else None)
    rows = []
    for described in _one_behind(_encode_batches(encode, images, batch_size)):
        rows.append(described)
        on_progress(len(described))
    if not rows:
        raise InputError(f"expected at least one readable image among {len(paths)}, found none")
    readable = np.ones(len(paths), bool)
    readable[[index for index, _ in skipped]] = False
    descriptors = np.concatenate(rows)
    _check_finite(descriptors, paths, readable)
    return Described(descriptors, readable, tuple(str(error) for _, error in skipped))


def _readable(
    read: Iterator[np.ndarray | InputError], skipped: list[tuple[int, InputError]] | None
) -> Iterator[np.ndarray]:
    """The images alone; what could not be read goes into `skipped`, or ends it all."""
    for index, image in enumerate(read):
        if isinstance(image, np.ndarray):
            yield image
        elif skipped is None:
            raise image
        else:
            skipped.append((index, image))


def _check_finite(descriptors: np.ndarray, paths: Sequence[Path], readable: np.ndarray) -> None:
    broken = np.flatnonzero(~np.isfinite(descriptors).all(axis=1))
    if len(broken):
        path = paths[int(np.flatnonzero(readable)[broken[0]])]
        raise InputError(
            f"{path}: expected a finite descriptor, found NaN or infinity (and so for "
            f"{len(broken)} of {len(descriptors)} images): look at the weights"
        )


def _encode_batches(
    encode: Encoder, images: Iterator[np.ndarray], batch_size: int
) -> Iterator[tuple[jax.Array | np.ndarray, int]]:
    """Starts one batch after another on the device: its result to be, and how many rows count."""
    while chunk := list(islice(images, batch_size)):
        batch = np.stack(chunk + [np.zeros_like(chunk[0])] * (batch_size - len(chunk)))
        yield encode(normalize(batch)), len(chunk)


def _one_behind(started: Iterator[tuple[jax.Array | np.ndarray, int]]) -> Iterator[np.ndarray]:
    """Fetches each result once the next batch has been started, so that the device never waits."""
    waiting: deque[tuple[jax.Array | np.ndarray, int]] = deque()
    for batch in started:
        waiting.append(batch)
        if len(waiting) > 1:
            result, count = waiting.popleft()
            yield np.asarray(result)[:count]
    for result, count in waiting:
        yield np.asarray(result)[:count]


def _read_ahead(
    preprocess: Preprocess, paths: Sequence[Path], ahead: int
) -> Iterator[np.ndarray | InputError]:
    """Resized images in order, read by threads (Pillow decodes outside of Python's lock)."""

    def read(path: Path) -> np.ndarray | InputError:
        try:
            return preprocess.resize(path)
        except InputError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: deque[Future[np.ndarray | InputError]] = deque()
        for path in paths:
            waiting.append(pool.submit(read, path))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
