"""Exact nearest neighbours by L2 distance, on any devices, in bounded memory.

Scores 2 qd - |d|² order the database as distances do, up to rounding in float32. The devices
compute them chunk by chunk and keep each query's best, a few more than are asked for. The host
re-ranks those that may be neighbours in float64. Where the bound on rounding cannot exclude that
a neighbour is missing among the candidates, the query is searched again with more candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import index
from typing import Any, SupportsIndex, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from mixvpr_jax.checks import require_one_size, to_array
from mixvpr_jax.distributed import AXIS, data_mesh, gather
from mixvpr_jax.errors import InputError
from mixvpr_jax.workers import num_processors

DTYPES = ("float32", "float16", "bfloat16")
MAX_ROWS = 2**31 - 1  # whose indices are int32
QUERIES = 512  # at a time
ROWS = 2**18  # of a chunk on each device, if there is memory for them
CPU_CHUNK_BYTES = 48 * 2**20  # of a chunk and its scores: about a cache, yet few selections
BLOCK = 32  # rows whose best score decides whether the others are read
SPARE_CANDIDATES = 12
MORE_CANDIDATES = 8  # times as many, for queries whose neighbours are not certain
MAX_CANDIDATES = 4096  # beyond, the whole database is measured in float64
VALUES_AT_ONCE = 2**18  # of differences in float64, which should stay in a core's cache
NONE = -1  # in place of a row
CHECKED_ROWS = 8192  # at a time

Neighbours: TypeAlias = tuple[np.ndarray, np.ndarray]


class Index:
    """Database descriptors, ready to be searched.

    Examples:
        >>> import numpy as np
        >>> index = Index(np.array([[1, 0], [0, 1], [1, 0]], np.float32))
        >>> indices, distances = index.search(np.array([[1, 0]]), k=2)
        >>> indices.tolist(), distances.tolist()
        ([[0, 2]], [[0.0, 0.0]])
    """

    def __init__(
        self,
        database: np.ndarray | Array,
        *,
        mesh: Mesh | None = None,
        memory_bytes: int | None = None,
        recall_target: float | None = None,
    ) -> None:
        """Checks the descriptors.

        Args:
            database: [n, d] float32, float16 or bfloat16; an np.memmap is read chunk by chunk. A
                writable array is copied, so that later changes do not reach the index.
            mesh: The devices that share the database, along the axis `data`; by default all of
                this process.
            memory_bytes: What a search may take on each device; by default a quarter of what is
                free on an accelerator, and 1 GiB on a CPU. A database that takes less than a
                quarter of it stays there.
            recall_target: None for the exact neighbours. Otherwise `lax.approx_max_k` selects the
                candidates, which is fast on TPUs, and this share of the neighbours is expected.

        Raises:
            InputError: Another shape or dtype, too many rows, NaN or infinity; no such share.
        """
        database = to_array("database: expected descriptors [n, d]", database)
        if database.dtype.name not in DTYPES or not database.dtype.isnative:
            raise InputError(
                f"database: expected one of {', '.join(DTYPES)} in this machine's byte order, "
                f"found {database.dtype}; convert it by astype"
            )
        if recall_target is not None and not 0 < recall_target <= 1:
            raise InputError(
                f"recall_target: expected a share above 0, at most 1, found {recall_target}"
            )
        if database.flags.writeable and not isinstance(database, np.memmap):
            database = database.copy()
        self.database, self.recall_target = database, recall_target
        self._options = {"memory_bytes": memory_bytes, "recall_target": recall_target}
        self.mesh = data_mesh(jax.local_devices()) if mesh is None else mesh
        if memory_bytes is None:
            memory = self.mesh.local_devices[0].memory_stats() or {}  # a CPU tells nothing
            free = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
            memory_bytes = max(free // 4, 2**30)
        self.memory_bytes = memory_bytes
        self._largest = check_descriptors("database", database)
        self._kept: dict[int, list[tuple[Any, Any, Any]]] = {}  # rows on a device → `_chunks`

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without its devices; it takes all of those, and memory, where it is loaded."""
        return partial(type(self), **self._options), (self.database,)

    def search(self, queries: np.ndarray | Array, k: SupportsIndex) -> Neighbours:
        """The k nearest database descriptors of each query, as float64 arithmetic finds them.

        Args:
            queries: [q, d], converted to float32.
            k: How many; at most n are given.

        Returns:
            Indices [q, k] int32, nearest first, equal distances by index; distances [q, k] float32.

        Raises:
            InputError: Queries that do not fit, NaN or infinity in them, or too little memory.
        """
        queries = to_array("queries: expected descriptors [q, d]", queries, np.float32)
        check_descriptors("queries", queries)
        require_one_size(queries, self.database)
        if (k := index(k)) < 1:
            raise InputError(f"neighbours: expected at least 1, found {k}")
        return self._search(queries, min(k, len(self.database)), k + SPARE_CANDIDATES)

    def _search(self, queries: np.ndarray, k: int, count: int) -> Neighbours:
        """The k nearest out of `count` candidates, or of more where these may miss some."""
        most = max(min(MAX_CANDIDATES, self.memory_bytes // 2**10), k + SPARE_CANDIDATES)
        if count >= len(self.database) or count > most:
            everything = np.arange(len(self.database), dtype=np.int32)
            rows = np.broadcast_to(everything, (len(queries), len(everything)))
            return self._rerank(queries, rows, k)
        indices = np.empty((len(queries), k), np.int32)
        distances = np.empty((len(queries), k), np.float32)
        # All queries and their candidates stay on the devices while the database passes.
        step = max(self.memory_bytes // 8 // (4 * queries.shape[1] + 32 * count), 1)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            scores, found = self._candidates(queries[part], count)
            # At least k rows truly score `scores[:, k - 1] - rounding`, so neighbours do as well.
            limits = scores[:, k - 1] - 2 * rounding_of_scores(queries[part], self._largest)
            close = ~(scores < limits[:, None])
            rows = np.where(close, found, NONE)[:, : close.sum(axis=1).max()]
            indices[part], distances[part] = self._rerank(queries[part], rows, k)
            again = start + np.flatnonzero(close[:, -1])
            if len(again) and self.recall_target is None:
                more = self._search(queries[again], k, MORE_CANDIDATES * count)
                indices[again], distances[again] = more
        return indices, distances

    def _rerank(self, queries: np.ndarray, rows: np.ndarray, k: int) -> Neighbours:
        """The k nearest of each query's candidate rows [q, c]."""
        step = max(VALUES_AT_ONCE // (rows.shape[1] * queries.shape[1]), 1)

        def rerank(start: int) -> Neighbours:
            some = slice(start, start + step)
            return nearest(queries[some], self.database, rows[some], k)

        with ThreadPoolExecutor(num_processors()) as pool:  # NumPy works outside of Python's lock
            found = pool.map(rerank, range(0, len(queries), step))
            indices, squared = map(np.concatenate, zip(*found, strict=True))
        return indices, np.sqrt(squared).astype(np.float32)

    def _candidates(self, queries: np.ndarray, count: int) -> Neighbours:
        """Scores 2 qd - |d|² and indices [q, count], best first."""
        rows, batch = self._sizes(len(queries), count)
        shared, divided = (NamedSharding(self.mesh, spec) for spec in (P(), P(AXIS)))
        batches = [
            jax.device_put(_padded(queries[at : at + batch], batch), shared)
            for at in range(0, len(queries), batch)
        ]
        shape = self.mesh.size, batch, count
        nothing = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int32)
        known = [jax.device_put(nothing, divided) for _ in batches]
        for chunk in self._kept.get(rows) or self._chunks(rows, divided):
            jax.block_until_ready(known)  # so that at most two chunks are in memory
            known = [
                better(*best, some, *chunk, self.mesh, self.recall_target)
                for best, some in zip(known, batches, strict=True)
            ]
        scores, indices = (
            np.concatenate([np.hstack([*one]) for one in part])[: len(queries)]
            for part in zip(*jax.device_get(known), strict=True)
        )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)

    def _chunks(self, rows: int, divided: NamedSharding) -> Iterator[tuple[Any, Any, Any]]:
        """The database on the devices, so many rows on each: `chunk, norms, first` of `better`."""
        self._kept, kept, total = {}, [], rows * self.mesh.size
        keep = self.database.nbytes // self.mesh.size <= self.memory_bytes // 4
        for first in range(0, len(self.database), total):
            chunk = jax.device_put(_padded(self.database[first : first + total], total), divided)
            at = np.int32(first), np.int32(len(self.database) - first)
            at, left = jax.device_put(at, NamedSharding(self.mesh, P()))  # no implicit transfers
            found = chunk, norms_of(chunk, left), at
            yield found
            kept += [found] if keep else []
        self._kept = {rows: kept} if keep else {}

    def _sizes(self, num_queries: int, count: int) -> tuple[int, int]:
        """How many rows a device takes at a time, a multiple of BLOCK, and how many queries."""
        (length, size), width = self.database.shape, self.database.dtype.itemsize
        batch = min(QUERIES, 1 << (num_queries - 1).bit_length())  # few shapes to compile for
        while batch > 1 and batch * (16 * count * (BLOCK + 2)) > self.memory_bytes // 8:
            batch //= 2
        rows = self.memory_bytes // 2 // (size * (2 * width + 4 * (width < 4)) + 12 * batch)
        if rows < BLOCK:
            room = f"room for {BLOCK} descriptors of {size} values"
            raise InputError(f"memory: expected {room}, found {self.memory_bytes:,} bytes")
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        most = CPU_CHUNK_BYTES // (4 * size + 4 * QUERIES) if on_cpu else ROWS
        rows = max(min(rows, most) // BLOCK, 1) * BLOCK * self.mesh.size
        each = -(-length // rows) * self.mesh.size  # shares of chunks that are about equally full
        return -(-length // (each * BLOCK)) * BLOCK, batch


@jax.jit
def norms_of(chunk: Float[Array, "n d"], count: Int[Array, ""]) -> Float[Array, " n"]:
    """|d|² of each row; infinite from row `count` on, which is padding."""
    is_row = jnp.arange(len(chunk), dtype=jnp.int32) < count
    return jnp.where(is_row, jnp.sum(chunk.astype(jnp.float32) ** 2, axis=1), jnp.inf)


@partial(
    jax.jit,
    static_argnames=("mesh", "recall_target"),
    # No trial compilations on GPUs: 8 → 1 s on an H200, the program as fast.
    compiler_options={"xla_gpu_enable_triton_gemm": False},
)
def better(
    scores: Float[Array, "devices q c"],
    indices: Int[Array, "devices q c"],
    queries: Float[Array, "q d"],
    chunk: Float[Array, "n d"],
    norms: Float[Array, " n"],
    first: Int[Array, ""],
    mesh: Mesh,
    recall_target: float | None,
) -> tuple[Float[Array, "devices q c"], Int[Array, "devices q c"]]:
    """Each device's best, given those of earlier chunks and its share of the next.

    The chunk begins with the database's row `first`; `norms_of` tells its padding. The c blocks
    of rows with the best maxima hold the c best scores, so only these are scored again: writing
    all scores would take longer than computing those of a few twice.
    """

    def on_device(scores: Any, indices: Any, queries: Any, rows: Any, norms: Any) -> Any:
        count, begin = scores.shape[2], first + lax.axis_index(AXIS) * len(rows)
        # HIGHEST: GPUs and TPUs would otherwise round the factors.
        rows = rows.astype(jnp.float32)
        products = jnp.matmul(queries, rows.T, precision=lax.Precision.HIGHEST)
        if recall_target is not None:
            found = 2 * products - norms[None]
            found, columns = lax.approx_max_k(found, min(count, len(rows)), -1, recall_target)
        else:
            products, norms = products.reshape(len(queries), -1, BLOCK), norms.reshape(-1, BLOCK)
            best = jnp.max(2 * products - norms[None], axis=2)
            _, chosen = lax.top_k(best, min(count, len(norms)))
            found = 2 * jnp.take_along_axis(products, chosen[:, :, None], axis=1) - norms[chosen]
            columns = chosen[:, :, None] * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)[None, None]
            found, columns = (part.reshape(len(queries), -1) for part in (found, columns))
        best, places = lax.top_k(jnp.concatenate([scores[0], found], axis=1), count)
        columns = jnp.concatenate([indices[0], begin + columns], axis=1)
        return best[None], jnp.take_along_axis(columns, places, axis=1)[None]

    specs = P(AXIS), P(AXIS), P(), P(AXIS), P(AXIS)
    mapped = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=P(AXIS))
    return mapped(scores, indices, queries, chunk, norms)


def rounding_of_scores(queries: np.ndarray, largest: float) -> np.ndarray:
    """How far rounding may move a query's scores 2 qd - |d|² in float32, [q], for |d|² ≤ largest.

    A sum of d products is off by at most d units in the last place of the sum of their absolute
    values, which is at most |q| |d|; by 8 sqrt(d) but with negligible probability, since roundings
    are about as often up as down (Higham and Mary, A new approach to probabilistic rounding error
    analysis, 2019). Numbers below float32's normal ones may be lost on the way.
    """
    size = queries.shape[1]
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    units = min(size, 8 * size**0.5) + 8
    return units * 2.0**-24 * (largest + 2 * lengths * largest**0.5) + 8 * size * 2.0**-126


def nearest(queries: np.ndarray, database: np.ndarray, rows: np.ndarray, k: int) -> Neighbours:
    """The k nearest of each query's rows [q, c], equal ones by index, and squared distances.

    In float64; a row NONE is at infinity.
    """
    squared, step = np.empty(rows.shape), max(VALUES_AT_ONCE // queries.size, 1)
    for start in range(0, rows.shape[1], step):
        some = slice(start, start + step)
        squared[:, some] = squared_distances(queries[:, None], database[rows[:, some]])
    squared[rows == NONE] = np.inf
    order = np.lexsort((rows, squared))[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(squared, order, axis=1)


def squared_distances(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of queries and rows [..., d], in float64."""
    differences = np.subtract(rows, queries, dtype=np.float64)
    return np.vecdot(differences, differences)


def check_descriptors(name: str, rows: np.ndarray) -> float:
    """The largest squared length; refuses what is not [n, d] or not finite, and too many rows."""
    if rows.ndim != 2 or 0 in rows.shape:
        raise InputError(f"{name}: expected descriptors [rows, d], found {list(rows.shape)}")
    if len(rows) > MAX_ROWS:
        raise InputError(f"{name}: expected at most {MAX_ROWS:,} rows, found {len(rows):,}")
    largest, broken = 0.0, []
    for start in range(0, len(rows), CHECKED_ROWS):
        some = rows[start : start + CHECKED_ROWS].astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.vecdot(some, some)
        broken += (start + np.flatnonzero(~np.isfinite(lengths))).tolist()
        largest = max(largest, float(lengths.max()))
    if broken:
        listed = ", ".join(f"{row:,}" for row in broken[:5])
        more = f" and {len(broken) - 5:,} more" if len(broken) > 5 else ""
        raise InputError(
            f"{name}: expected finite descriptors, found NaN, infinity or values too large in "
            f"row {listed}{more}"
        )
    return largest


def search_on_all_processes(
    search: Callable[[np.ndarray, int], Neighbours], queries: np.ndarray, k: int
) -> Neighbours:
    """What an index's `search` gives; the processes, which hold the same, divide the queries."""
    if jax.process_count() == 1:
        return search(queries, k)
    share = -(-len(queries) // jax.process_count())
    own = np.arange(share) + jax.process_index() * share
    found = search(queries.take(own, axis=0, mode="wrap"), k)  # of first ones again at the end
    indices, distances = (np.concatenate(gather(part))[: len(queries)] for part in found)
    return indices, distances


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    return rows if len(rows) == count else np.pad(rows, ((0, count - len(rows)), (0, 0)))
