"""Losses over rankings: the average precision of each anchor."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mixvpr_jax.losses.mining import Mined, Triplets, all_pairs, similarities
from mixvpr_jax.losses.reductions import mean, total


def fast_ap(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    mined: Mined | None = None,
    *,
    num_bins: int = 30,
    rows: Int[Array, " r"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """FastAP: one minus each anchor's average precision, by soft histograms of squared distances.

    Cakir et al., "Deep Metric Learning to Rank", CVPR 2019. What was mined weighs an anchor by how
    often it occurs there; the mean is over anchors with a positive.

    Descriptors [n, d] and labels [n] → a scalar; see `mixvpr_jax.losses` for what all losses take.

    Examples:
        >>> copies = jnp.eye(2)[jnp.array([0, 0, 1, 1])]
        >>> print(f"{fast_ap(copies, jnp.array([0, 0, 1, 1])):.3f}")
        0.000
    """
    pairs = all_pairs(labels, rows)
    squared = jnp.maximum(2 - 2 * similarities(descriptors, rows), 0)
    width = 4 / num_bins
    middles = jnp.linspace(0, 4, num_bins + 1, dtype=squared.dtype)
    pulse = jax.nn.relu(1 - jnp.abs(squared[None] - middles[:, None, None]) / width)
    of_positives = jnp.sum(pulse, 2, where=pairs.positive[None]).T  # [r, bins]
    of_negatives = jnp.sum(pulse, 2, where=pairs.negative[None]).T
    reached = jnp.cumsum(of_positives, 1)
    passed = jnp.cumsum(of_positives + of_negatives, 1)
    product = of_positives * reached
    safe = (product > 0) & (passed > 0)
    precision = jnp.where(safe, product / jnp.where(safe, passed, 1), 0).sum(1)
    count = pairs.positive.sum(1).astype(squared.dtype)
    losses = (1 - precision / jnp.maximum(count, 1)) * _weights(mined, labels, rows, axis_name)
    return mean(losses, count > 0, axis_name)


def _weights(
    mined: Mined | None, labels: Array, rows: Array | None, axis_name: str | None
) -> Float[Array, " r"] | float:
    """How often each anchor occurs among all that was mined, against the one that occurs most."""
    if mined is None:
        return 1.0
    rows = jnp.arange(len(labels), dtype=jnp.int32) if rows is None else rows
    counts = jnp.zeros(len(labels))
    for mask in (mined.mask,) if isinstance(mined, Triplets) else mined:
        weights = mask.astype(counts.dtype)
        counts = counts.at[rows].add(weights.sum(tuple(range(1, mask.ndim))))
        for axis in range(1, mask.ndim):  # positives, negatives
            counts += weights.sum(tuple(other for other in range(mask.ndim) if other != axis))
    counts = total(counts, axis_name)
    most = counts.max()
    return jnp.where(most > 0, counts / jnp.maximum(most, 1), 1)[rows]
