"""Exact nearest neighbours of descriptors, on the device, in chunks of the database."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

QUERY_CHUNK = 1024
DATABASE_CHUNK = 16384
SPARE_CANDIDATES = 32


def nearest_neighbours(
    queries: np.ndarray, database: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest database descriptors of each query, by L2 distance.

    Args:
        queries: [q, d] float32.
        database: [n, d] float32.
        k: How many; at most n are given.

    Returns:
        Indices [q, k] int32, nearest first, of two equally near ones the lower index first; and
        their distances [q, k] float32.

    Candidates are found by |d|² - 2 qd in float32, which resolves squared distances of unit vectors
    to about 1e-7, and are then ordered by their differences. Where more than k + 32 descriptors lie
    that close together, which of them are found is left to rounding, as in FAISS.
    """
    k = min(k, len(database))
    candidates = min(k + SPARE_CANDIDATES, len(database))
    starts = range(0, len(queries), QUERY_CHUNK)
    blocks = [jnp.asarray(queries[start : start + QUERY_CHUNK]) for start in starts]
    shapes = [(len(block), candidates) for block in blocks]
    best = [(jnp.full(shape, jnp.inf), jnp.zeros(shape, jnp.int32)) for shape in shapes]
    size = min(DATABASE_CHUNK, len(database))
    for offset in range(0, len(database), size):
        chunk = jnp.asarray(_pad(database[offset : offset + size], size))
        count = min(size, len(database) - offset)
        best = [
            _merge(known, block, chunk, offset, count)
            for known, block in zip(best, blocks, strict=True)
        ]
    found = np.concatenate([np.asarray(indices) for _, indices in best])
    return _exact(queries, database, found, k)


@jax.jit
def _merge(
    best: tuple[Float[Array, "q k"], Int[Array, "q k"]],
    queries: Float[Array, "q d"],
    chunk: Float[Array, "n d"],
    offset: Int[Array, ""] | int,
    count: Int[Array, ""] | int,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The best of those known and of one more chunk, whose rows from `count` on are padding."""
    # Squared distance less the query's own norm, which does not change an order.
    products = jnp.matmul(queries, chunk.T, precision=lax.Precision.HIGHEST)
    squared = jnp.sum(chunk**2, axis=1)[None] - 2 * products
    rows = jnp.arange(len(chunk), dtype=jnp.int32)
    squared = jnp.where((rows < count)[None], squared, jnp.inf)
    indices = jnp.broadcast_to(offset + rows[None], squared.shape)
    together = jnp.concatenate([best[0], squared], axis=1)
    values, places = lax.top_k(-together, best[0].shape[1])
    names = jnp.concatenate([best[1], indices], axis=1)
    return -values, jnp.take_along_axis(names, places, axis=1)


def _exact(
    queries: np.ndarray, database: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest candidates by distances from differences, without cancellation."""
    distances = np.stack(
        [
            np.linalg.norm(database[row] - query, axis=1)
            for row, query in zip(candidates, queries, strict=True)
        ]
    )
    order = np.lexsort((candidates, distances))[:, :k]
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(distances, order, 1)


def _pad(rows: np.ndarray, count: int) -> np.ndarray:
    return np.pad(rows, ((0, count - len(rows)), (0, 0)))
