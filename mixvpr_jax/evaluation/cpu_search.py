"""Candidates for the nearest neighbours on a CPU, which sorts badly but compares quickly.

Products are computed on XLA's threads, chunk by chunk, and seen by NumPy without a copy. A row of
the database is a candidate where its score plus the error that it may have reaches the k-th
largest of the scores minus theirs; so none of the k nearest is missed, however coarse the products
are. On processors with matrix units for bfloat16 (AMX) the factors are rounded to bfloat16, and
the error is bounded by the lengths of what rounding took away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.ordering import (
    Candidates,
    nearest_of_candidates,
    require_finite,
    rounding_of_scores,
)

QUERIES = 512  # at a time
BLOCK = 16  # rows whose largest score is looked at first
CACHED_BYTES = 24 * 2**20  # of buffers that glibc does not map anew each time
BYTES_EACH = 96  # of a candidate, while they are gathered and put in order


@cache
def factor_dtype() -> DTypeLike:
    """What factors of products are rounded to on this processor."""
    described = Path("/proc/cpuinfo")
    matrix_units = described.exists() and " amx_bf16" in described.read_text()
    return jnp.bfloat16 if matrix_units else jnp.float32


class Chunk(NamedTuple):
    """Some rows of the database, prepared.

    Attributes:
        factors: [n, d], rounded.
        norms: [n] float32, |d|²; infinite where a row does not count.
        largest: The largest |d|² of those that count; NaN where one of them is not finite.
        rounded_away: The largest squared length of what rounding took from a row.
    """

    factors: Float[Array, "n d"]
    norms: Float[Array, " n"]
    largest: Float[Array, ""]
    rounded_away: Float[Array, ""]


@partial(jax.jit, static_argnames="dtype")
def prepared(
    rows: Float[Array, "n d"], begin: Int[Array, ""], end: Int[Array, ""], dtype: DTypeLike
) -> Chunk:
    """Rounds the rows, of which those from begin to end count."""
    rows = rows.astype(jnp.float32)
    index = jnp.arange(len(rows))
    counts = (index >= begin) & (index < end)
    # The barrier keeps XLA from assuming that nothing is rounded away.
    factors = lax.optimization_barrier(rows.astype(dtype))
    lost = jnp.sum((rows - factors.astype(jnp.float32)) ** 2, axis=1)
    norms = jnp.sum(rows**2, axis=1)
    largest, rounded_away = (jnp.max(jnp.where(counts, part, 0)) for part in (norms, lost))
    # A maximum may pass NaN over.
    largest = jnp.where(jnp.all(jnp.isfinite(norms) | ~counts), largest, jnp.nan)
    return Chunk(factors, jnp.where(counts, norms, jnp.inf), largest, rounded_away)


@jax.jit
def scores_of(
    queries: Float[Array, "q d"], factors: Float[Array, "n d"], norms: Float[Array, " n"]
) -> tuple[Float[Array, "q n"], Float[Array, "q b"]]:
    """2 qd - |d|² of all pairs, and the largest of each block of rows."""
    products = lax.dot_general(
        queries,
        factors,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    scores = 2 * products - norms[None]
    return scores, jnp.max(scores.reshape(len(queries), -1, BLOCK), axis=2)


class Block:
    """Some queries, and the candidates that are known of them."""

    def __init__(
        self, queries: np.ndarray, count: int, k: int, dtype: DTypeLike, memory_bytes: int
    ) -> None:
        """Takes [q, d] queries, filled up with zeros to so many rows."""
        rounded = queries.astype(jnp.dtype(dtype))
        lost = queries - rounded.astype(np.float32)
        self.queries = queries
        self.factors = jax.device_put(filled(rounded, count))
        self.rounded_away = np.linalg.norm(lost, axis=1).astype(np.float64)
        self.lengths = np.linalg.norm(rounded.astype(np.float32), axis=1).astype(np.float64)
        self.known = np.full((len(queries), k), -np.inf, np.float32)  # lower bounds of scores
        self.most = memory_bytes // BYTES_EACH
        self.overflows = False
        self.found: list[Candidates] = []

    def errors(self, chunk: Chunk) -> np.ndarray:
        """How far the queries' scores with a chunk may be off, [q, 1] float32."""
        largest, lost = (float(value) for value in (chunk.largest, chunk.rounded_away))
        products = self.rounded_away * largest**0.5 + self.lengths * lost**0.5
        bounds = 2 * products + rounding_of_scores(self.queries, largest)
        # Upwards, by more than this arithmetic and the sums with it may round.
        return (bounds * (1 + 1e-6)).astype(np.float32)[:, None]

    def look(self, scores: Any, largest: Any, chunk: Chunk, first: int) -> None:
        """Keeps what may be among the k nearest.

        Args:
            scores: [q, n], of rows from index `first` on.
            largest: [q, n / BLOCK], of each block of rows.
            chunk: Where the scores are from.
            first: The database index of its first row.
        """
        if self.overflows:
            return
        count, k = self.known.shape
        errors = self.errors(chunk)
        scores, largest = np.asarray(scores)[:count], np.asarray(largest)[:count]
        bounds = np.concatenate([self.known, largest - errors], axis=1)
        self.known = np.partition(bounds, -k, axis=1)[:, -k:]
        limits = self.known[:, :1] - errors
        owners, blocks = np.nonzero(largest >= limits)
        inside = scores.reshape(count, -1, BLOCK)[owners, blocks]
        hits, places = np.nonzero((inside >= limits[owners]) & (inside > -np.inf))
        owners = owners[hits]
        rows = first + blocks[hits] * BLOCK + places
        bounds = inside[hits, places] + errors[owners, 0]
        self.found.append(Candidates(owners.astype(np.int32), rows.astype(np.int32), bounds))
        if sum(len(some.rows) for some in self.found) > self.most:
            self.found = [self.candidates()]
            # One query must do with what there is.
            self.overflows = 2 * len(self.found[0].rows) > self.most and count > 1

    def candidates(self) -> Candidates:
        """Those that still may be among the k nearest."""
        found = Candidates(*(np.concatenate(part) for part in zip(*self.found, strict=True)))
        kept = np.flatnonzero(found.bounds >= self.known[found.owners, 0])
        return Candidates(*(part[kept] for part in found))


class CpuIndex:
    """Descriptors to search in."""

    def __init__(
        self,
        database: np.ndarray,
        memory_bytes: int,
        *,
        keep: bool = True,
        dtype: DTypeLike | None = None,
    ) -> None:
        """Takes descriptors, and prepares them if there is memory to keep them prepared.

        Args:
            database: [n, d] float32, float16 or bfloat16.
            memory_bytes: What prepared descriptors, chunks, scores and candidates may take.
            keep: Whether there will be several searches.
            dtype: What factors are rounded to; by default what this processor multiplies fastest.

        Raises:
            InputError: A budget that is too small.
        """
        self.database, self.memory_bytes = database, memory_bytes
        self.dtype = jnp.dtype(factor_dtype() if dtype is None else dtype)
        self.rows, self.num_queries = self._cut()
        self._kept: list[tuple[int, Chunk]] | None = None
        if keep and self.dtype.itemsize * database.size <= memory_bytes // 4:
            self._kept = list(self._prepared())

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices and distances [q, k], as of `nearest_neighbours`, for [q, d] float32.

        Raises:
            InputError: The database holds NaN or infinity.
        """
        indices = np.empty((len(queries), k), np.int32)
        distances = np.empty((len(queries), k), np.float32)
        # All queries and their candidates are kept while the database goes by.
        step = max(self.memory_bytes // 8 // (6 * queries.shape[1] + 4 * k), 1)
        todo = [slice(at, min(at + step, len(queries))) for at in range(0, len(queries), step)]
        while todo:
            at = todo.pop()
            for block, place in self._seen(queries[at], k):
                some = slice(at.start + place.start, at.start + place.stop)
                if block.overflows:
                    middle = (some.start + some.stop) // 2
                    todo += [slice(some.start, middle), slice(middle, some.stop)]
                    continue
                candidates = block.candidates()
                found = nearest_of_candidates(queries[some], self.database, candidates, k)
                indices[some], distances[some] = found
        return indices, distances

    def _seen(self, queries: np.ndarray, k: int) -> list[tuple[Block, slice]]:
        """All blocks of the queries, each with its place, after they have seen the database."""
        size = min(self.num_queries, len(queries))
        places = [slice(at, min(at + size, len(queries))) for at in range(0, len(queries), size)]
        allowed = self.memory_bytes // 8 // len(places)
        blocks = [Block(queries[place], size, k, self.dtype, allowed) for place in places]
        waiting: Callable[[], None] | None = None
        for first, chunk in self._prepared() if self._kept is None else self._kept:
            for block in blocks:
                scores = scores_of(block.factors, chunk.factors, chunk.norms)
                if waiting is not None:  # looked at while the next scores are computed
                    waiting()
                waiting = partial(self._look, block, *scores, chunk, first)
        assert waiting is not None
        waiting()
        return list(zip(blocks, places, strict=True))

    def _look(self, block: Block, scores: Any, largest: Any, chunk: Chunk, first: int) -> None:
        """Has a block look at a chunk of finite descriptors, see there."""
        if np.isnan(float(chunk.largest)):
            require_finite("database", self.database[first : first + self.rows], first)
        block.look(scores, largest, chunk, first)

    def _prepared(self) -> Iterator[tuple[int, Chunk]]:
        """Chunk by chunk, each with the index of its first row."""
        count = len(self.database)
        for begin in range(0, count, self.rows):
            # The last chunk reaches back for rows that are known, rather than being filled up.
            first = max(0, min(begin, count - self.rows))
            rows = filled(self.database[first : first + self.rows], self.rows)
            limits = np.int32(begin - first), np.int32(count - first)
            yield first, prepared(jax.device_put(rows), *limits, self.dtype)

    def _cut(self) -> tuple[int, int]:
        """How many rows are taken at a time, and how many queries."""
        (count, size), width = self.database.shape, self.database.dtype.itemsize
        factors = self.dtype.itemsize
        num_queries = QUERIES
        while True:
            each = 2 * size * (width + factors + 4 * (width < 4)) + 12 * num_queries
            wanted = max(CACHED_BYTES // (factors * size + 4 * num_queries), BLOCK)
            rows = min(self.memory_bytes // 2 // each, wanted, count + BLOCK - 1)
            if rows >= BLOCK:
                break
            if num_queries == 1:
                raise InputError(
                    f"memory: expected room for {BLOCK} descriptors of {size} values, found "
                    f"{self.memory_bytes:,} bytes"
                )
            num_queries //= 2
        chunks = -(-count // (rows - rows % BLOCK))
        return -(-count // (chunks * BLOCK)) * BLOCK, num_queries


def filled(rows: np.ndarray, count: int) -> np.ndarray:
    """So many rows, those that are missing zeros."""
    return rows if len(rows) == count else np.pad(rows, ((0, count - len(rows)), (0, 0)))
