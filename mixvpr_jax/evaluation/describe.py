"""Descriptors of many image files: decoded ahead in parallel while the devices compute."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixvpr_jax.distributed import AXIS, gather, gather_text, raise_on_all_processes
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.cache import DescriptorCache, Part
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.orientation import was_turned
from mixvpr_jax.preprocess import Preprocess, load_image, normalize
from mixvpr_jax.storage import AnyPath, OutOfReach
from mixvpr_jax.workers import (
    default_num_workers,
    num_processors,
    out_of_reach_of_ctrl_c,
)

Encoder = Callable[[np.ndarray], jax.Array | np.ndarray]
BATCHES_AT_ONCE = 2
ROWS_PER_CHUNK = 256  # one file of the cache, and what a kill loses at most


@dataclass(frozen=True)
class _Images:
    """What was read of b files.

    Attributes:
        pixels: [b, height, width, 3] uint8; zeros where a file could not be read.
        reasons: Why it could not, a line each; "" where it could.
        turned: Whether its EXIF orientation turned it, of each image.
    """

    pixels: np.ndarray
    reasons: tuple[str, ...]
    turned: tuple[bool, ...]


@dataclass(frozen=True)
class Described:
    """Descriptors of those images that could be read.

    Attributes:
        descriptors: [n, d] float32 (or float16), a row a readable image, in the given order.
        readable: [m] bool, which of the m given paths they are of.
        reasons: Why the others could not be read, a line each, in order.
        num_turned: How many images their EXIF orientation turned.
    """

    descriptors: np.ndarray
    readable: np.ndarray
    reasons: tuple[str, ...]
    num_turned: int


def compile_encoder(model: VPRModel, mesh: Mesh | None = None) -> Callable[[np.ndarray], jax.Array]:
    """A function of normalised images [b, h, w, 3] → descriptors [b, d], compiled for each shape.

    The weights are constants of the program, so that the compiler folds what follows from them
    alone (BatchNorm's factors among it): a tenth faster on a CPU than weights as arguments. It is
    compiled in the JAX settings of the first call, and then runs in any thread.

    Args:
        model: Whose descriptors.
        mesh: The devices that share each batch, which must then divide evenly; by default one.
    """
    divided = None if mesh is None else NamedSharding(mesh, P(AXIS))
    traced = jax.jit(lambda images: model(images), in_shardings=divided, out_shardings=divided)
    programs: dict[tuple[int, ...], jax.stages.Compiled] = {}

    def encode(images: np.ndarray) -> jax.Array:
        placed = jax.device_put(images, divided)
        if images.shape not in programs:
            programs[images.shape] = traced.lower(placed).compile()
        return programs[images.shape](placed)

    return encode


def describe_images(
    encode: Encoder,
    preprocess: Preprocess,
    paths: Sequence[AnyPath],
    *,
    batch_size: int = 4,
    batch_multiple: int = 1,
    num_workers: int | None = 0,
    storage: str = "float32",
    skip_unreadable: bool = False,
    cache: DescriptorCache | None = None,
    on_progress: Callable[[int], object] = lambda images: None,
) -> Described:
    """Computes the descriptors of image files.

    Every batch is padded to the same size, so that the program compiles once. Where several
    processes run (`jax.distributed`), each describes its share, and all of them get the whole.

    Args:
        encode: Normalised images [b, h, w, 3] → descriptors [b, d], compiled.
        preprocess: The model's preprocessing.
        paths: The image files.
        batch_size: How many images the model sees at a time.
        batch_multiple: What a batch is rounded up to a multiple of: the devices that share it.
        num_workers: Processes that decode; 0 for threads, None for what suits the machine.
        storage: The dtype in which descriptors are kept, "float32" or "float16".
        skip_unreadable: Whether to leave out what cannot be read, and say so in the result.
        cache: Where finished chunks are kept, and taken from.
        on_progress: Told the number of images done, after each batch.

    Raises:
        InputError: An image that cannot be read, unless such ones are skipped; on all processes.
    """
    batch_size = min(batch_size, max(len(paths), 1))
    batch_size = -(-batch_size // batch_multiple) * batch_multiple
    rows = batch_size * max(1, ROWS_PER_CHUNK // batch_size)
    chunks = [slice(at, min(at + rows, len(paths))) for at in range(0, len(paths), rows)]
    share = -(-len(chunks) // jax.process_count())
    own = chunks[jax.process_index() * share :][:share]
    parts = []
    with raise_on_all_processes():
        known = [_known(cache, chunk, preprocess, paths[chunk]) for chunk in own]
        todo = [chunk for chunk, part in zip(own, known, strict=True) if part is None]
        batches = [paths[batch] for chunk in todo for batch in _cut(chunk, batch_size)]
        with closing(_read_ahead(preprocess, batches, num_workers)) as read:
            described = _described(encode, read, batch_size, skip_unreadable)
            for chunk, part in zip(own, known, strict=True):
                if part is not None:
                    _require_readable(part.reasons, skip_unreadable)
                    on_progress(len(part.reasons))
                else:
                    part = _joined(described, len(_cut(chunk, batch_size)), storage, on_progress)
                    if cache:
                        cache.save(chunk, part)
                parts.append(part)
    whole = _of_all_processes(parts, storage)
    readable = np.array([not reason for reason in whole.reasons], bool)
    descriptors = whole.descriptors[readable]
    _check_finite(descriptors, paths, readable)
    reasons = tuple(filter(None, whole.reasons))
    return Described(descriptors, readable, reasons, sum(whole.turned))


def _known(
    cache: DescriptorCache | None, rows: slice, preprocess: Preprocess, paths: Sequence[AnyPath]
) -> Part | None:
    """What the cache holds of a chunk; None if an image of it that was broken is not any more."""
    part = cache.load(rows) if cache else None
    if part is None or not any(part.reasons):
        return part
    broken = [row for row, reason in enumerate(part.reasons) if reason]
    again = _read(preprocess, [paths[row] for row in broken])
    if not all(again.reasons):
        return None
    reasons = dict(zip(broken, again.reasons, strict=True))
    return replace(part, reasons=tuple(reasons.get(row, "") for row in range(len(paths))))


def _cut(rows: slice, size: int) -> list[slice]:
    return [slice(at, min(at + size, rows.stop)) for at in range(rows.start, rows.stop, size)]


def _joined(
    described: Iterator[Part], count: int, storage: str, on_progress: Callable[[int], object]
) -> Part:
    """So many batches as one part."""
    parts = []
    for part in islice(described, count):
        on_progress(len(part.reasons))
        parts.append(part)
    descriptors = np.concatenate([part.descriptors for part in parts]).astype(storage)
    return Part(descriptors, *_told(parts))


def _told(parts: Sequence[Part]) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    reasons = tuple(reason for part in parts for reason in part.reasons)
    return reasons, tuple(turned for part in parts for turned in part.turned)


def _of_all_processes(parts: Sequence[Part], storage: str) -> Part:
    """The whole: every process gives the parts that it described."""
    # Flat, as a process without a part knows no width.
    flat = gather(np.concatenate([np.zeros(0, storage), *(p.descriptors.ravel() for p in parts)]))
    told = [json.loads(text) for text in gather_text(json.dumps(_told(parts)))]
    reasons = tuple(reason for of_process, _ in told for reason in of_process)
    turned = tuple(one for _, of_process in told for one in of_process)
    return Part(np.concatenate(flat).reshape(len(reasons), -1), reasons, turned)


def _check_finite(descriptors: np.ndarray, paths: Sequence[AnyPath], readable: np.ndarray) -> None:
    broken = np.flatnonzero(~np.isfinite(descriptors).all(axis=1))
    if len(broken):
        path = paths[int(np.flatnonzero(readable)[broken[0]])]
        raise InputError(
            f"{path}: expected a finite descriptor, found NaN or infinity (and so for "
            f"{len(broken)} of {len(descriptors)} images): look at the weights"
        )


def _require_readable(reasons: Sequence[str], skip_unreadable: bool) -> None:
    for reason in filter(None, reasons):
        if not skip_unreadable:
            raise InputError(reason)


def _described(
    encode: Encoder, batches: Iterator[_Images], batch_size: int, skip_unreadable: bool
) -> Iterator[Part]:
    """The descriptors of each batch, in order.

    While one is computed the next is prepared and waits for an accelerator; on a CPU both are
    computed at once, as one fills the other's pauses.
    """

    def describe(images: np.ndarray) -> np.ndarray:
        full = np.zeros((batch_size, *images.shape[1:]), images.dtype)
        full[: len(images)] = images
        return np.asarray(encode(normalize(full)))[: len(images)]

    started = False
    with ThreadPoolExecutor(BATCHES_AT_ONCE) as pool:
        waiting: deque[tuple[Future[np.ndarray], _Images]] = deque()

        def first_of_waiting() -> Part:
            result, images = waiting.popleft()
            return Part(result.result(), images.reasons, images.turned)

        for images in batches:
            _require_readable(images.reasons, skip_unreadable)
            if not started:  # in this thread, whose JAX settings it is compiled in
                started = True
                yield Part(describe(images.pixels), images.reasons, images.turned)
                continue
            waiting.append((pool.submit(describe, images.pixels), images))
            if len(waiting) > BATCHES_AT_ONCE:
                yield first_of_waiting()
        while waiting:
            yield first_of_waiting()


def _read_ahead(
    preprocess: Preprocess, batches: Sequence[Sequence[AnyPath]], num_workers: int | None
) -> Generator[_Images]:
    """Resized images, batch by batch in order, read by threads or by processes.

    Pillow decodes outside of Python's lock, so that threads suffice for a few cores.
    """
    workers = default_num_workers() if num_workers is None else num_workers
    if workers:
        pool = ProcessPoolExecutor(workers, get_context("spawn"))
    else:
        workers = num_processors()
        pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[_Images]] = deque()
    try:
        for batch in batches:
            with out_of_reach_of_ctrl_c():  # it may start a process
                waiting.append(pool.submit(_read, preprocess, tuple(batch)))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(preprocess: Preprocess, paths: Sequence[AnyPath]) -> _Images:
    """Reads and resizes images; only what is wrong with a file itself makes it unreadable.

    Raises:
        OutOfReach: An object store that could not be asked.
    """
    pixels = np.zeros((len(paths), *preprocess.image_size, 3), np.uint8)
    reasons, turned = [""] * len(paths), [False] * len(paths)
    for row, path in enumerate(paths):
        try:
            image = load_image(path)
            turned[row] = was_turned(image)
            image.info.clear()  # it is upright: nothing shall turn it again
            pixels[row] = preprocess.resize(image)
        except OutOfReach:
            raise
        except InputError as error:
            reasons[row] = str(error)
    return _Images(pixels, tuple(reasons), tuple(turned))
