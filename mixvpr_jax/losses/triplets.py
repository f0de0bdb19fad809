"""Losses over triplets: an anchor shall lie nearer to a positive than to a negative."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mixvpr_jax.losses.mining import Mined, all_pairs, distances, similarities, triplets_of
from mixvpr_jax.losses.reductions import mean


def triplet_margin(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    mined: Mined | None = None,
    *,
    margin: float = 0.1,
    rows: Int[Array, " r"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Triplet loss on L2 distances, over every triplet or those that were mined.

    Schroff et al., CVPR 2015. The mean is over triplets with a loss above zero.

    Descriptors [n, d] and labels [n] → a scalar; see `mixvpr_jax.losses` for what all losses take.

    Examples:
        >>> print(f"{triplet_margin(jnp.eye(3), jnp.array([0, 0, 1])):.3f}")
        0.100
    """
    mask = triplets_of(all_pairs(labels, rows) if mined is None else mined).mask
    distance = distances(similarities(descriptors, rows))
    losses = jax.nn.relu(distance[:, :, None] - distance[:, None, :] + margin)
    return mean(losses, mask & (losses > 0), axis_name)


def centroid_triplet(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    mined: Mined | None = None,
    *,
    margin: float = 0.05,
    rows: Int[Array, " r"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Triplets of an image, the centroid of its place's other images, and another place's centroid.

    Wieczorek et al., "On the Unreasonable Effectiveness of Centroids in Image Retrieval", 2021; it
    takes no miner. The mean is over triplets with a loss above zero. An image that is its place's
    only one is no anchor.

    Descriptors [n, d] and labels [n] → a scalar; see `mixvpr_jax.losses` for what all losses take.

    Examples:
        >>> print(f"{centroid_triplet(jnp.eye(4), jnp.array([0, 0, 1, 1])):.3f}")
        0.050
    """
    if mined is not None:
        raise ValueError("centroid_triplet: takes no miner")
    every, own = all_pairs(labels), all_pairs(labels, rows)
    anchors = descriptors if rows is None else descriptors[rows]
    real = labels >= 0
    first = real & ~jnp.tril(every.positive, -1).any(1)  # one image to stand for each place
    whole = _centroids(
        every.positive | (jnp.eye(len(labels), dtype=bool) & real[None]), descriptors
    )
    near = distances(jnp.sum(anchors * _centroids(own.positive, descriptors), 1))
    far = distances(jnp.matmul(anchors, whole.T, precision=lax.Precision.HIGHEST))
    losses = jax.nn.relu(near[:, None] - far + margin)
    counted = own.positive.any(1)[:, None] & own.negative & first[None]
    return mean(losses, counted & (losses > 0), axis_name)


def _centroids(members: Bool[Array, "r n"], descriptors: Float[Array, "n d"]) -> Array:
    """The unit vector towards the mean of each row's members."""
    weights = members.astype(descriptors.dtype)
    sums = jnp.matmul(weights, descriptors, precision=lax.Precision.HIGHEST)
    squared = jnp.sum(sums**2, axis=1, keepdims=True)
    return sums / jnp.sqrt(jnp.where(squared > 0, squared, 1))
