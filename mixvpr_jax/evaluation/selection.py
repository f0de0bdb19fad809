"""The best of a database's chunk for each query, on the devices, without sorting all scores.

Rows of scores are cut into blocks, and only the k blocks with the largest maxima are looked into.
Nothing is lost: whatever lies in another block is at most as large as each of these k maxima,
which are k scores that are found.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from mixvpr_jax.distributed import AXIS

BLOCK = 64


class Candidates(NamedTuple):
    """What each device knows of its share of the database; a score is 2 qd - |d|².

    Attributes:
        scores: [devices, q, c] float32, descending.
        indices: [devices, q, c] int32, of the database.
        largest: [devices] float32, the largest |d|² yet; NaN where one of them is not finite.
    """

    scores: Any
    indices: Any
    largest: Any


@partial(jax.jit, static_argnames=("mesh", "recall_target"), donate_argnums=0)
def better_of_chunk(
    known: Candidates,
    queries: Float[Array, "q d"],
    chunk: Float[Array, "n d"],
    first: Int[Array, ""],
    begin: Int[Array, ""],
    end: Int[Array, ""],
    mesh: Mesh,
    recall_target: float | None,
) -> Candidates:
    """The best of those known and of one more chunk, on each device for itself.

    Args:
        known: Of earlier chunks.
        queries: On every device.
        chunk: Divided over the devices; float32, float16 or bfloat16.
        first: The database index of its first row.
        begin: The first index that is new.
        end: The index after the database's last row; what follows is padding.
        mesh: The devices.
        recall_target: What `lax.approx_max_k` is asked for; None for exactly the best.
    """

    def of_device(
        known: Candidates, queries: Float[Array, "q d"], rows: Float[Array, "m d"]
    ) -> Candidates:
        rows = rows.astype(jnp.float32)
        own = first + lax.axis_index(AXIS) * len(rows)
        index = own + jnp.arange(len(rows), dtype=jnp.int32)
        counts = (index >= begin) & (index < end)
        # The barrier keeps XLA from summing again for every query.
        norms = lax.optimization_barrier(jnp.sum(rows**2, axis=1))
        largest = jnp.maximum(known.largest, jnp.max(jnp.where(counts, norms, 0)))
        # A maximum may pass NaN over.
        finite = jnp.all(jnp.isfinite(norms) | ~counts) & ~jnp.isnan(known.largest)
        largest = jnp.where(finite, largest, jnp.nan)
        # HIGHEST: GPUs and TPUs would otherwise round the factors.
        products = jnp.matmul(queries, rows.T, precision=lax.Precision.HIGHEST)
        count = known.scores.shape[2]
        offsets = jnp.where(counts, norms, jnp.inf)
        found, columns = _largest(products, offsets, min(count, len(rows)), recall_target)
        scores = jnp.concatenate([known.scores[0], found], axis=1)
        indices = jnp.concatenate([known.indices[0], own + columns], axis=1)
        scores, places = lax.top_k(scores, count)
        indices = jnp.take_along_axis(indices, places, axis=1)
        return Candidates(scores[None], indices[None], largest)

    return jax.shard_map(of_device, mesh=mesh, in_specs=(P(AXIS), P(), P(AXIS)), out_specs=P(AXIS))(
        known, queries, chunk
    )


def _largest(
    products: Float[Array, "q n"],
    offsets: Float[Array, " n"],
    k: int,
    recall_target: float | None,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The k largest of 2 products - offsets in each row, and their columns."""
    num_columns = products.shape[1]
    if recall_target is not None:
        scores = 2 * products - offsets[None]
        values, columns = lax.approx_max_k(scores, k, recall_target=recall_target)
        return values, columns
    if num_columns % BLOCK or 2 * k * BLOCK > num_columns:
        values, columns = lax.top_k(2 * products - offsets[None], k)
        return values, columns
    # The difference is taken twice and never kept whole: that saves a pass over memory.
    blocks = products.reshape(len(products), -1, BLOCK)
    block_offsets = offsets.reshape(-1, BLOCK)
    _, chosen = lax.top_k(jnp.max(2 * blocks - block_offsets[None], axis=2), k)
    inside = 2 * jnp.take_along_axis(blocks, chosen[:, :, None], axis=1) - block_offsets[chosen]
    values, places = lax.top_k(inside.reshape(len(products), -1), k)
    block = jnp.take_along_axis(chosen, places // BLOCK, axis=1)
    return values, block * BLOCK + places % BLOCK
