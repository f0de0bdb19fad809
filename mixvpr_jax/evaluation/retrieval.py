"""Exact nearest neighbours of descriptors, on the device, in chunks of the database."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

QUERY_CHUNK = 1024
DATABASE_CHUNK = 16384


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
    """
    k = min(k, len(database))
    query_chunk = min(QUERY_CHUNK, len(queries))
    database_chunk = min(DATABASE_CHUNK, len(database))
    padded = _pad(database, database_chunk)
    parts = []
    for start in range(0, len(queries), query_chunk):
        rows = queries[start : start + query_chunk]
        block = jnp.asarray(_pad(rows, query_chunk))
        best = (jnp.full((query_chunk, k), jnp.inf), jnp.zeros((query_chunk, k), jnp.int32))
        for offset in range(0, len(padded), database_chunk):
            chunk = jnp.asarray(padded[offset : offset + database_chunk])
            best = _merge(best, block, chunk, offset, len(database), k=k)
        parts.append(_exact(rows, database, np.asarray(best[1])[: len(rows)]))
    indices, distances = zip(*parts, strict=True)
    return np.concatenate(indices), np.concatenate(distances)


@partial(jax.jit, static_argnames="k")
def _merge(
    best: tuple[Float[Array, "q k"], Int[Array, "q k"]],
    queries: Float[Array, "q d"],
    chunk: Float[Array, "n d"],
    offset: Int[Array, ""] | int,
    num_database: Int[Array, ""] | int,
    *,
    k: int,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The k best of those known and of one more chunk, whose padding is infinitely far."""
    # Squared distance less the query's own norm, which does not change an order.
    products = jnp.matmul(queries, chunk.T, precision=lax.Precision.HIGHEST)
    squared = jnp.sum(chunk**2, axis=1)[None] - 2 * products
    indices = offset + jnp.arange(len(chunk), dtype=jnp.int32)
    squared = jnp.where((indices < num_database)[None], squared, jnp.inf)
    nearest = jnp.concatenate([best[0], squared], axis=1)
    names = jnp.broadcast_to(indices[None], squared.shape)
    names = jnp.concatenate([best[1], names], axis=1)
    values, places = lax.top_k(-nearest, k)
    return -values, jnp.take_along_axis(names, places, axis=1)


def _exact(
    queries: np.ndarray, database: np.ndarray, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the differences, without the cancellation of 2 - 2 cos, and their order."""
    distances = np.stack(
        [
            np.linalg.norm(database[row] - query, axis=1)
            for row, query in zip(indices, queries, strict=True)
        ]
    )
    order = np.lexsort((indices, distances))
    return np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)


def _pad(rows: np.ndarray, multiple: int) -> np.ndarray:
    missing = -len(rows) % multiple
    return np.pad(rows, ((0, missing), (0, 0)))
