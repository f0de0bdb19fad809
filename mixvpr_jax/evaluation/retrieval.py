"""Exact nearest neighbours of descriptors, on the devices, within a budget of memory.

A CPU searches as cpu_search.py says. On accelerators, and where devices divide the database,
candidates are found by their scores 2 qd - |d|² in float32, which order like distances up to
rounding. Where the bound of that rounding cannot exclude that a neighbour is missing among the
candidates, the query is searched again with more of them. Candidates are put in order by
ordering.py, so the result is that of float64 arithmetic, whatever the devices, chunks and dtype.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixvpr_jax.distributed import AXIS, data_mesh, gather
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation import ordering
from mixvpr_jax.evaluation.cpu_search import CpuIndex, filled
from mixvpr_jax.evaluation.faiss_index import FaissIndex
from mixvpr_jax.evaluation.selection import BLOCK, Candidates, better_of_chunk

QUERIES = 512  # at a time
ROWS = 2**18  # of a chunk on each device, if there is memory for them
CPU_ROWS = 12800  # whose scores fit into memory that glibc does not map anew each time
SPARE_CANDIDATES = 12
MORE_CANDIDATES = 8  # times as many, for queries whose neighbours are not certain
DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def nearest_neighbours(
    queries: np.ndarray,
    database: np.ndarray,
    k: int,
    *,
    mesh: Mesh | None = None,
    memory_bytes: int = 2**30,
    recall_target: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest database descriptors of each query, by L2 distance.

    Args:
        queries: [q, d], converted to float32.
        database: [n, d] float32, float16 or bfloat16; an np.memmap is read chunk by chunk.
        k: How many; at most n are given.
        mesh: The devices that the database is divided over, along the axis `data`; by default all
            of this process.
        memory_bytes: What chunks, scores and candidates may take on each device.
        recall_target: None for the exact neighbours. Otherwise `lax.approx_max_k` finds the
            candidates, which TPUs are quick at, and this share of the neighbours is expected.

    Returns:
        Indices [q, k] int32, nearest first, of two equally near ones (in float64) the lower index
        first; and their distances [q, k] float32.

    Raises:
        InputError: Shapes that do not fit, another dtype, more rows than an int32 counts, NaN or
            infinity, or a budget that is too small.
    """
    index = Index(
        database, mesh=mesh, memory_bytes=memory_bytes, recall_target=recall_target, keep=False
    )
    return index.search(queries, k)


class Index:
    """Descriptors to search in several times, see `nearest_neighbours`."""

    def __init__(
        self,
        database: np.ndarray,
        *,
        mesh: Mesh | None = None,
        memory_bytes: int = 2**30,
        recall_target: float | None = None,
        keep: bool = True,
    ) -> None:
        """Takes descriptors [n, d], and prepares them, if they will be searched several times.

        Raises:
            InputError: Shapes or a dtype that do not fit, or a budget that is too small.
        """
        _check_rows("database", database)
        if len(database) > ordering.MOST_ROWS:
            raise InputError(
                f"database: expected at most {ordering.MOST_ROWS:,} rows, found {len(database):,}"
            )
        if database.dtype not in DTYPES:
            known = ", ".join(map(str, DTYPES))
            raise InputError(f"database: expected one of {known}, found {database.dtype}")
        mesh = data_mesh(jax.local_devices()) if mesh is None else mesh
        self.database = database
        self._how = mesh, memory_bytes, recall_target
        self._on_cpu: CpuIndex | None = None
        if mesh.size == 1 and mesh.devices.flat[0].platform == "cpu" and recall_target is None:
            self._on_cpu = CpuIndex(database, memory_bytes, keep=keep)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices and distances of the k nearest, [q, k].

        Raises:
            InputError: Queries that do not fit; NaN or infinity in them or in the database.
        """
        _check_rows("queries", queries)
        if queries.shape[1] != self.database.shape[1]:
            raise InputError(
                f"expected queries and database of one model, found descriptors of "
                f"{queries.shape[1]} and of {self.database.shape[1]} values"
            )
        if k < 1:
            raise InputError(f"neighbours: expected at least 1, found {k}")
        with np.errstate(over="ignore"):  # a float64 beyond them all is refused in the next line
            queries, k = np.asarray(queries, np.float32), min(k, len(self.database))
        ordering.require_finite("queries", queries)
        if self._on_cpu is not None:
            return self._on_cpu.search(queries, k)
        return _Search(self.database, k, *self._how).run(queries, k + SPARE_CANDIDATES)


def search_together(
    index: Index | FaissIndex, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """What `index.search` (of FAISS, `search_some`) gives; several processes share the queries.

    Args:
        index: The same descriptors on every process.
        queries: [q, d], the same on every process.
        k: How many neighbours.
    """
    search = index.search_some if isinstance(index, FaissIndex) else index.search
    if jax.process_count() == 1:
        return search(queries, k)
    share = -(-len(queries) // jax.process_count())
    own = queries[jax.process_index() * share :][:share]
    k = min(k, len(index.database))
    found = np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)
    if len(own):
        found = search(own, k)
    indices, distances = (np.concatenate(gather(part)) for part in found)
    return indices, distances


def _check_rows(name: str, array: np.ndarray) -> None:
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name}: expected descriptors [rows, d], found {list(array.shape)}")


class _Search(NamedTuple):
    """What stays the same while queries are searched again."""

    database: np.ndarray
    k: int
    mesh: Mesh
    memory_bytes: int
    recall_target: float | None

    def run(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices and distances [q, k], from so many candidates a query, or from more."""
        indices = np.zeros((len(queries), self.k), np.int32)
        distances = np.zeros((len(queries), self.k), np.float32)
        count = min(count, len(self.database))
        # All queries stay on the devices, and their candidates, while the database goes by.
        each = 4 * queries.shape[1] + 32 * count
        step = max(self.memory_bytes // 4 // each, 1)
        for start in range(0, len(queries), step):
            some = slice(start, start + step)
            indices[some], distances[some] = self._run_some(queries[some], count)
        return indices, distances

    def _run_some(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        scores, found, largest = self._candidates(queries, count)
        rounding = ordering.rounding_of_scores(queries, largest)
        close = scores >= (scores[:, self.k - 1] - 2 * rounding)[:, None]
        owners, places = np.nonzero(close)
        bounds = scores[owners, places] + rounding[owners]
        candidates = ordering.Candidates(owners, found[owners, places], bounds)
        indices, distances = ordering.nearest_of_candidates(
            queries, self.database, candidates, self.k
        )
        # Where the last candidate may be a neighbour, so may others that were not found.
        if count < len(self.database) and self.recall_target is None and close[:, -1].any():
            again = close[:, -1]
            indices[again], distances[again] = self.run(queries[again], MORE_CANDIDATES * count)
        return indices, distances

    def _candidates(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Scores and indices [q, count], best first, and the largest |d|²."""
        rows, block = self._cut(len(queries), count)
        everywhere, divided = (NamedSharding(self.mesh, spec) for spec in (P(), P(AXIS)))
        blocks = [
            jax.device_put(filled(queries[at : at + block], block), everywhere)
            for at in range(0, len(queries), block)
        ]
        known = [jax.device_put(self._nothing(block, count), divided) for _ in blocks]
        total = rows * self.mesh.size
        for begin in range(0, len(self.database), total):
            # The last chunk reaches back for rows that are known, rather than being filled up.
            first = max(0, min(begin, len(self.database) - total))
            chunk = filled(self.database[first : first + total], total)
            chunk = jax.device_put(chunk, divided)
            # Waiting for the last chunk's end keeps two of them in memory, not all.
            jax.block_until_ready(known)
            limits = np.int32(first), np.int32(begin), np.int32(len(self.database))
            known = [
                better_of_chunk(state, some, chunk, *limits, self.mesh, self.recall_target)
                for state, some in zip(known, blocks, strict=True)
            ]
        merged = [_of_all_devices(jax.device_get(state)) for state in known]
        scores, indices = (
            np.concatenate(part)[: len(queries)] for part in zip(*merged, strict=True)
        )
        largest = np.max([np.asarray(state.largest) for state in known])
        if np.isnan(largest):
            ordering.require_finite("database", self.database)
        return scores, indices, float(largest)

    def _cut(self, num_queries: int, count: int) -> tuple[int, int]:
        """How many rows of a chunk a device takes, and how many queries at a time."""
        size, width = self.database.shape[1], self.database.dtype.itemsize
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        wanted = min(-(-len(self.database) // self.mesh.size), CPU_ROWS if on_cpu else ROWS)
        spare = 3 * self.memory_bytes // 4
        block = min(num_queries, QUERIES)
        while True:
            each = size * (2 * width + 4 * (width < 4)) + 12 * block
            rows = min((spare - 4 * block * count * (BLOCK + 8)) // each, wanted)
            if rows >= min(wanted, BLOCK):
                return self._even(rows), block
            if block == 1:
                raise InputError(
                    f"memory: expected room for {BLOCK} descriptors of {size} values, found "
                    f"{self.memory_bytes:,} bytes"
                )
            block = (block + 1) // 2

    def _even(self, most: int) -> int:
        """So many rows at most that all chunks are about equally full."""
        most -= most % BLOCK if most > BLOCK else 0
        chunks = -(-len(self.database) // (most * self.mesh.size))
        rows = -(-len(self.database) // (chunks * self.mesh.size))
        return min(-(-rows // BLOCK) * BLOCK, most)

    def _nothing(self, num_queries: int, count: int) -> Candidates:
        shape = (self.mesh.size, num_queries, count)
        scores, indices = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int32)
        return Candidates(scores, indices, np.zeros(self.mesh.size, np.float32))


def _of_all_devices(known: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """The best that any device knows."""
    devices, queries, count = known.scores.shape
    if devices == 1:
        return known.scores[0], known.indices[0]
    scores, indices = (
        np.swapaxes(part, 0, 1).reshape(queries, devices * count)
        for part in (known.scores, known.indices)
    )
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)
