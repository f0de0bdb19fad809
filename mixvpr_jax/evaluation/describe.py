"""Descriptors of many image files: decoded ahead in parallel while the devices compute."""

from __future__ import annotations

import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from mixvpr_jax.distributed import AXIS, exchange, gather_text, raise_on_all_processes
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.cache import DescriptorCache, Part
from mixvpr_jax.evaluation.reading import read
from mixvpr_jax.models.vpr import VPRModel, fold
from mixvpr_jax.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, normalize
from mixvpr_jax.storage import AnyPath, named_when_full
from mixvpr_jax.workers import default_num_workers, num_processors, out_of_reach_of_ctrl_c

Encoder = Callable[[np.ndarray], jax.Array | np.ndarray]
BATCHES_AT_ONCE = 2  # on a CPU, one fills the other's pauses; else the next waits for the device
IN_MEMORY_BYTES = 2**32  # of descriptors; more are mapped from a file
MAX_READERS = 32  # processes; 14 read and resize 2,000 photos of 640x480 a second
READ_AT_ONCE = 16  # images, by one process
ROWS_PER_CHUNK = 256  # one file of the cache, and what a kill loses at most


@dataclass(frozen=True)
class Described:
    """Descriptors of those images that could be read.

    Attributes:
        descriptors: [n, d] float32 (or float16), read-only, a row a readable image, in order.
        readable: [m] bool, which of the m given paths they are of.
        reasons: Why the others could not be read, a line each, in order.
        num_turned: How many images their EXIF orientation turned.
    """

    descriptors: np.ndarray
    readable: np.ndarray
    reasons: tuple[str, ...]
    num_turned: int


def compile_encoder(model: VPRModel, mesh: Mesh | None = None) -> Callable[[np.ndarray], jax.Array]:
    """A function of images [b, h, w, 3] → descriptors [b, d], compiled for each shape.

    Images are normalised, or uint8 as `Preprocess.resize` gives them: a quarter of the bytes.
    BatchNorm is folded into the weights, which are arguments of the program: programs that are kept
    stay small, and start sooner. Constants would take 0.96 of the time at batch 1 on a CPU, and
    1.04 at batch 8.

    It is compiled in the JAX settings of the first call, and then runs in any thread. The devices
    of `mesh`, by default one, share each batch, which must divide evenly.
    """
    shared, divided = (
        None if mesh is None else NamedSharding(mesh, spec) for spec in (P(), P(AXIS))
    )
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    graph, state = nnx.split(fold(model, device.platform))
    weights = jax.device_put(state, shared)

    def describe(weights: Any, images: Array) -> Array:
        is_uint8 = images.dtype == jnp.uint8
        return nnx.merge(graph, weights)(normalized(images) if is_uint8 else images)

    traced = jax.jit(describe, in_shardings=(shared, divided), out_shardings=divided)
    programs: dict[Any, jax.stages.Compiled] = {}

    def encode(images: np.ndarray) -> jax.Array:
        placed = jax.device_put(images, divided)
        if jax.config.values["jax_disable_jit"]:  # which compiled programs refuse
            return traced(weights, placed)
        kind = placed.shape, placed.dtype
        if kind not in programs:
            programs[kind] = traced.lower(weights, placed).compile()
        return programs[kind](weights, placed)

    return encode


def normalized(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """`preprocess.normalize` within a program, equal to the bit, but on TPUs to rounding.

    XLA rounds a division by a constant otherwise than NumPy; TPUs look values up slowly.
    """
    table = normalize(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1))
    return lax.platform_dependent(
        images,
        tpu=normalized_to_rounding,
        default=lambda images: jnp.asarray(table)[images, jnp.arange(3)],
    )


def normalized_to_rounding(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """`preprocess.normalize` within a program, to rounding, which training needs no closer."""
    mean, std = (jnp.asarray(value)[None, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.astype(jnp.float32) / 255 - mean) / std


def compile_saliency(model: VPRModel) -> Callable[[np.ndarray], jax.Array]:
    """A compiled function of a query and its match, normalised [2, h, w, 3] → their [2, h2, w2].

    A cell's weight is the change of the descriptors' similarity with the cell's features, to first
    order: |Σ_c feature_c · d similarity / d feature_c|, "gradient times input" (Shrikumar et al.,
    2016; Selvaraju et al.'s Grad-CAM without its mean over cells, which the mixer's positions are
    no copies of). Both maps are scaled to a largest value of 1.
    """
    graph, state = nnx.split(model)

    @jax.jit
    def maps(pair: Float[Array, "2 h w 3"]) -> Float[Array, "2 h2 w2"]:
        own = nnx.merge(graph, state)
        features, *token = own.features(pair)
        similarity = jax.grad(lambda some: jnp.vdot(*own.head(some, *token)))
        weights = jnp.abs((features * similarity(features)).sum(-1))
        largest = weights.max(axis=(1, 2), keepdims=True)
        return (weights / jnp.maximum(largest, 1e-30)).astype(jnp.float32)

    return lambda pair: maps(jax.device_put(pair))


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
    temporary: Path | None = None,
    on_progress: Callable[[int], object] = lambda images: None,
) -> Described:
    """Computes the descriptors of image files.

    Every batch is padded to the same size, so that the program compiles once. Where several
    processes run (`jax.distributed`), each describes its share, and all of them get the whole.

    Args:
        encode: Images [b, h, w, 3], uint8 → descriptors [b, d], compiled.
        preprocess: The model's preprocessing.
        paths: The image files.
        batch_size: How many images the model sees at a time.
        batch_multiple: What a batch is rounded up to a multiple of: the devices that share it.
        num_workers: Processes that decode; 0 for threads, None for what suits the machine.
        storage: The dtype in which descriptors are kept, "float32" or "float16".
        skip_unreadable: Whether to leave out what cannot be read, and say so in the result.
        cache: Where finished chunks are kept, and taken from.
        temporary: Folder for an unnamed file that holds descriptors beyond IN_MEMORY_BYTES, by
            default the system's; they then take disk in place of memory.
        on_progress: Told the number of images done, after each batch.

    Raises:
        InputError: An image that cannot be read, unless such ones are skipped; on all processes.
    """
    batch_size = min(batch_size, max(len(paths), 1))
    batch_size = -(-batch_size // batch_multiple) * batch_multiple
    rows = batch_size * max(1, ROWS_PER_CHUNK // batch_size)
    share = rows * -(-len(paths) // (rows * jax.process_count()))
    first = share * jax.process_index()
    table = _Table(len(paths), storage, temporary)

    def put(images: slice, part: Part) -> None:
        if not skip_unreadable and any(part.reasons):
            raise InputError(next(filter(None, part.reasons)))
        table.put(images, part)
        on_progress(len(part.reasons))

    with raise_on_all_processes():
        todo = []
        for chunk in _cut(slice(first, min(first + share, len(paths))), rows):
            if part := _known(cache, chunk, preprocess, paths[chunk]):
                put(chunk, part)
            else:
                todo.append(chunk)
        batches = [tuple(paths[batch]) for chunk in todo for batch in _cut(chunk, batch_size)]
        with closing(_describe(encode, preprocess, batches, batch_size, num_workers)) as described:
            for chunk in todo:
                for batch, part in zip(_cut(chunk, batch_size), described, strict=False):
                    put(batch, part)
                if cache:
                    cache.save(chunk, table.part(chunk))
    if jax.process_count() > 1:
        table.exchange(share)
    found = table.finished(rows)
    broken = [
        row
        for some in _cut(slice(0, len(found.descriptors)), rows)
        for row in some.start + np.flatnonzero(~np.isfinite(found.descriptors[some]).all(axis=1))
    ]
    if broken:
        path = paths[int(np.flatnonzero(found.readable)[broken[0]])]
        raise InputError(
            f"{path}: expected a finite descriptor, found NaN or infinity (and so for "
            f"{len(broken)} of {len(found.descriptors)} images): look at the weights"
        )
    return found


class _Table:
    """What becomes of all images: one array, since two copies may not fit into memory."""

    def __init__(self, count: int, storage: str, temporary: Path | None) -> None:
        self.values = np.zeros((0, 0), storage)
        self.reasons, self.turned = np.full(count, "", object), np.zeros(count, bool)
        self.temporary = temporary

    def put(self, rows: slice, part: Part) -> None:
        if not len(self.values):
            self._allocate(part.values.shape[1])
        self.values[rows], self.reasons[rows], self.turned[rows] = part

    def _allocate(self, size: int) -> None:
        """In memory, or beyond IN_MEMORY_BYTES in a mapped file that has no name."""
        shape, dtype = (len(self.reasons), size), self.values.dtype
        num_bytes = shape[0] * size * dtype.itemsize
        if num_bytes <= IN_MEMORY_BYTES:
            self.values = np.empty(shape, dtype)
            return
        where = self.temporary or Path(tempfile.gettempdir())
        with named_when_full(where), tempfile.TemporaryFile(dir=where) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk kills the process by SIGBUS
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            self.values = np.asarray(np.memmap(file, dtype, "w+", shape=shape))

    def part(self, rows: slice) -> Part:
        return Part(self.values[rows], self.reasons[rows], self.turned[rows])

    def exchange(self, share: int) -> None:
        """Shares the rows among processes, each of which has so many."""
        shares = [slice(at * share, (at + 1) * share) for at in range(jax.process_count())]
        own = shares[jax.process_index()]
        notes = (notes[own].tolist() for notes in (self.reasons, self.turned))
        told = map(json.loads, gather_text(json.dumps([self.values.shape[1], *notes])))
        sizes, reasons, turned = zip(*told, strict=True)
        if not len(self.values):  # there was nothing to do for this process
            self._allocate(max(sizes))
        self.reasons[:], self.turned[:] = list(chain(*reasons)), list(chain(*turned))
        exchange([self.values[rows] for rows in shares])

    def finished(self, rows: int) -> Described:
        """The rows of the images that could be read, moved up in place, so many at a time."""
        readable = self.reasons == ""
        kept = np.flatnonzero(readable)
        for some in _cut(slice(0, len(kept)), rows) if len(kept) < len(readable) else ():
            self.values[some] = self.values[kept[some]]
        reasons, num_turned = tuple(self.reasons[~readable]), int(self.turned.sum())
        self.values.flags.writeable = False  # so that an index need not copy them
        return Described(self.values[: len(kept)], readable, reasons, num_turned)


def _known(
    cache: DescriptorCache | None, rows: slice, preprocess: Preprocess, paths: Sequence[AnyPath]
) -> Part | None:
    """What the cache holds of a chunk; None if an image of it that was broken is not any more."""
    part = cache.load(rows) if cache else None
    if part is None or not any(part.reasons):
        return part
    broken, reasons = np.flatnonzero(part.reasons != ""), part.reasons.astype(object)
    reasons[broken] = read(preprocess, [paths[row] for row in broken.tolist()]).reasons
    return part._replace(reasons=reasons) if all(reasons[broken]) else None


def _cut(rows: slice, size: int) -> list[slice]:
    return [slice(at, min(at + size, rows.stop)) for at in range(rows.start, rows.stop, size)]


def _describe(
    encode: Encoder,
    preprocess: Preprocess,
    batches: Sequence[Sequence[AnyPath]],
    batch_size: int,
    num_workers: int | None,
) -> Generator[Part]:
    """The descriptors of each batch, in order, whose images threads or processes read ahead.

    Pillow decodes outside of Python's lock, so that threads suffice for a few cores.
    """

    def describe(parts: Sequence[Part]) -> Part:
        pixels, reasons, turned = zip(*parts, strict=True)
        count = sum(map(len, pixels))
        padding = np.zeros((batch_size - count, *pixels[0].shape[1:]), np.uint8)
        values = np.asarray(encode(np.concatenate([*pixels, padding])))[:count]
        return Part(values, np.concatenate(reasons), np.concatenate(turned))

    workers = default_num_workers(MAX_READERS) if num_workers is None else num_workers
    if workers:
        readers: Executor = ProcessPoolExecutor(workers, get_context("spawn"))
    else:
        workers = num_processors()
        readers = ThreadPoolExecutor(workers)
    try:
        pieces = [
            [batch[rows] for rows in _cut(slice(0, len(batch)), READ_AT_ONCE)] for batch in batches
        ]
        parts = _ahead(readers, partial(read, preprocess), chain(*pieces), workers + 1)
        images = (list(islice(parts, len(each))) for each in pieces)
        for first in islice(images, 1):  # in this thread, whose JAX settings it is compiled in
            yield describe(first)
        with ThreadPoolExecutor(BATCHES_AT_ONCE) as pool:
            yield from _ahead(pool, describe, images, BATCHES_AT_ONCE)
    finally:
        readers.shutdown(cancel_futures=True)


def _ahead(
    pool: Executor, function: Callable[[Any], Part], items: Iterable[Any], count: int
) -> Iterator[Part]:
    """The function of each item, in order; so many more are computed ahead."""
    waiting: deque[Future[Part]] = deque()
    for item in items:
        with out_of_reach_of_ctrl_c():  # it may start a process
            waiting.append(pool.submit(function, item))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
