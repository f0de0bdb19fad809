"""Losses over rankings: triplets, and the average precision of each anchor."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mixvpr_jax.losses.mining import Mined, all_pairs, distances, similarities, triplets_of
from mixvpr_jax.losses.reductions import mean, total


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
    mask = triplets_of(all_pairs(labels, rows) if mined is None else mined)
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
    own = all_pairs(labels, rows)
    anchors = descriptors if rows is None else descriptors[rows]
    real = labels >= 0
    place = (labels[:, None] == labels[None]) & real[None]
    first = real & ~jnp.tril(place, -1).any(1)  # one image to stand for each place
    whole = _centroids(place, descriptors)
    near = distances(jnp.sum(anchors * _centroids(own.positive, descriptors), 1))
    far = distances(jnp.matmul(anchors, whole.T, precision=lax.Precision.HIGHEST))
    losses = jax.nn.relu(near[:, None] - far + margin)
    counted = own.positive.any(1)[:, None] & own.negative & first[None]
    return mean(losses, counted & (losses > 0), axis_name)


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


def _centroids(members: Bool[Array, "r n"], descriptors: Float[Array, "n d"]) -> Array:
    """The unit vector towards the mean of each row's members."""
    weights = members.astype(descriptors.dtype)
    sums = jnp.matmul(weights, descriptors, precision=lax.Precision.HIGHEST)
    squared = jnp.sum(sums**2, axis=1, keepdims=True)
    return sums / jnp.sqrt(jnp.where(squared > 0, squared, 1))


def _weights(
    mined: Mined | None, labels: Array, rows: Array | None, axis_name: str | None
) -> Float[Array, " r"] | float:
    """How often each anchor occurs among all that was mined, against the one that occurs most."""
    if mined is None:
        return 1.0
    rows = jnp.arange(len(labels), dtype=jnp.int32) if rows is None else rows
    counts = jnp.zeros(len(labels))
    for mask in mined:
        weights = mask.astype(counts.dtype)
        counts = counts.at[rows].add(weights.sum(tuple(range(1, mask.ndim))))
        for axis in range(1, mask.ndim):  # positives, negatives
            counts += weights.sum(tuple(other for other in range(mask.ndim) if other != axis))
    counts = total(counts, axis_name)
    most = counts.max()
    return jnp.where(most > 0, counts / jnp.maximum(most, 1), 1)[rows]
