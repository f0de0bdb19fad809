"""Mines the pairs and triplets of a batch: masks of fixed shape, without gradient.

A batch is n unit descriptors [n, d] with integer labels [n], one label a place; a negative label
marks padding, which is never mined. Where a batch lies on several devices, each passes the whole
batch and takes the rows of the pair matrix whose anchors are its own (`rows`).

The miners are those of pytorch-metric-learning (Musgrave et al., 2020), as utils/losses.py of
amaralibey/MixVPR sets them up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Pairs(NamedTuple):
    """Mined pairs: [r, n] masks, a row for each of r anchors, a column for each of n images."""

    positive: Bool[Array, "r n"]
    negative: Bool[Array, "r n"]


class Triplets(NamedTuple):
    """Mined triplets: a mask [r, n, n] of anchor, positive, negative."""

    mask: Bool[Array, "r n n"]


Mined = Pairs | Triplets
Miner = Callable[..., Mined]


def all_pairs(labels: Int[Array, " n"], rows: Int[Array, " r"] | None = None) -> Pairs:
    """Every pair of the same label, an image and itself aside, and every pair of different ones.

    Args:
        labels: A place an image, [n]; negative for padding.
        rows: The anchors, [r]; by default all images.

    Returns:
        Masks [r, n] of positive and of negative pairs, a row an anchor.

    Examples:
        >>> print(all_pairs(jnp.array([7, 7, 9])).positive.astype(int))
        [[0 1 0]
         [1 0 0]
         [0 0 0]]
    """
    images = jnp.arange(len(labels), dtype=jnp.int32)
    rows = images if rows is None else rows
    same = labels[rows][:, None] == labels[None]
    real = (labels[rows] >= 0)[:, None] & (labels >= 0)[None]
    itself = rows[:, None] == images[None]
    return Pairs(same & real & ~itself, ~same & real)


def similarities(
    descriptors: Float[Array, "n d"], rows: Int[Array, " r"] | None = None
) -> Float[Array, "r n"]:
    """Dot products of the anchors' descriptors with all, in full precision."""
    anchors = descriptors if rows is None else descriptors[rows]
    return jnp.matmul(anchors, descriptors.T, precision=lax.Precision.HIGHEST)


def distances(similarity: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """L2 distances of unit descriptors from their dot products.

    Squared distances below rounding (4 epsilons) count as zero, as between a descriptor and its
    copy; there the gradient is zero, as PyTorch's cdist has it.
    """
    squared = 2 - 2 * similarity
    apart = squared > 4 * jnp.finfo(similarity.dtype).eps
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)


def multi_similarity_miner(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    epsilon: float = 0.1,
    rows: Int[Array, " r"] | None = None,
) -> Pairs:
    """Positives less similar than the hardest negative, negatives more than the hardest positive.

    Both with a tolerance of `epsilon`, in cosine similarity. Wang et al., "Multi-Similarity Loss
    with General Pair Weighting for Deep Metric Learning", CVPR 2019.

    Unit descriptors [n, d] and labels [n] → masks [r, n], as `all_pairs` gives them.

    Examples:
        >>> mined = multi_similarity_miner(jnp.eye(4), jnp.array([0, 0, 1, 1]))
        >>> print(mined.negative.sum(1))
        [2 2 2 2]
    """
    pairs = all_pairs(labels, rows)
    similarity = similarities(lax.stop_gradient(descriptors), rows)
    hardest_negative = jnp.max(similarity, 1, where=pairs.negative, initial=-jnp.inf, keepdims=True)
    hardest_positive = jnp.min(similarity, 1, where=pairs.positive, initial=jnp.inf, keepdims=True)
    return Pairs(
        pairs.positive & (similarity - epsilon < hardest_negative),
        pairs.negative & (similarity + epsilon > hardest_positive),
    )


def pair_margin_miner(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    pos_margin: float = 0.7,
    neg_margin: float = 0.3,
    rows: Int[Array, " r"] | None = None,
) -> Pairs:
    """Positives of a similarity below `pos_margin`, negatives of one above `neg_margin`.

    Those that the margins of the contrastive loss leave: Hadsell et al., "Dimensionality Reduction
    by Learning an Invariant Mapping", CVPR 2006.

    Unit descriptors [n, d] and labels [n] → masks [r, n], as `all_pairs` gives them.

    Examples:
        >>> print(pair_margin_miner(jnp.eye(2), jnp.array([0, 1])).negative.any())
        False
    """
    pairs = all_pairs(labels, rows)
    similarity = similarities(lax.stop_gradient(descriptors), rows)
    return Pairs(
        pairs.positive & (similarity < pos_margin), pairs.negative & (similarity > neg_margin)
    )


def triplet_margin_miner(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    margin: float = 0.1,
    rows: Int[Array, " r"] | None = None,
) -> Triplets:
    """Semihard triplets: the negative is farther than the positive, by at most the margin.

    Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015.

    Unit descriptors [n, d] and labels [n] → a mask [r, n, n] of anchor, positive and negative.

    Examples:
        >>> print(triplet_margin_miner(jnp.eye(3), jnp.array([0, 0, 1])).mask.sum())
        0
    """
    distance = distances(similarities(lax.stop_gradient(descriptors), rows))
    violation = distance[:, None, :] - distance[:, :, None]  # [anchor, positive, negative]
    semihard = (violation > 0) & (violation <= margin)
    return Triplets(triplets_of(all_pairs(labels, rows)) & semihard)


# By the names of their classes in pytorch-metric-learning.
MINERS: Mapping[str, Miner] = {
    "MultiSimilarityMiner": multi_similarity_miner,
    "TripletMarginMiner": triplet_margin_miner,
    "PairMarginMiner": pair_margin_miner,
}


def triplets_of(mined: Mined) -> Bool[Array, "r n n"]:
    """Mined triplets, or every mined positive with every mined negative of its anchor."""
    if isinstance(mined, Triplets):
        return mined.mask
    return mined.positive[:, :, None] & mined.negative[:, None, :]


def mined_anchors(mined: Mined) -> Bool[Array, " r"]:
    """Which anchors have something mined: a positive pair, or a triplet."""
    if isinstance(mined, Triplets):
        return mined.mask.any((1, 2))
    return mined.positive.any(1)
