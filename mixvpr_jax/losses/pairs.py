"""Losses over pairs: of similarities, or of distances, of anchors with positives and negatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mixvpr_jax.losses.mining import Mined, Triplets, all_pairs, distances, similarities
from mixvpr_jax.losses.reductions import log_sum_exp, mean, total


def multi_similarity(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    mined: Mined | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 50.0,
    base: float = 0.0,
    rows: Int[Array, " r"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Multi-similarity loss: soft maxima of positives' and negatives' similarities.

    Wang et al., CVPR 2019. The mean is over all anchors, those with nothing mined included.

    Descriptors [n, d] and labels [n] → a scalar; see `mixvpr_jax.losses` for what all losses take.

    Examples:
        >>> print(f"{multi_similarity(jnp.eye(4), jnp.array([0, 0, 1, 1])):.3f}")
        0.715
    """
    similarity, positive, negative = _pairs(descriptors, labels, mined, rows)
    attract = log_sum_exp(alpha * (base - similarity), positive > 0, one=True) / alpha
    repel = log_sum_exp(beta * (similarity - base), negative > 0, one=True) / beta
    loss = mean(attract + repel, _anchors(labels, rows), axis_name)
    return _if_pairs(loss, positive, negative, axis_name)


def sup_con(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    mined: Mined | None = None,
    *,
    temperature: float = 0.07,
    rows: Int[Array, " r"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Supervised contrastive loss: each positive against all that was mined for its anchor.

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020. The mean is over anchors with a
    loss above zero.

    Descriptors [n, d] and labels [n] → a scalar; see `mixvpr_jax.losses` for what all losses take.

    Examples:
        >>> print(f"{sup_con(jnp.eye(4), jnp.array([0, 0, 1, 1])):.3f}")
        1.099
    """
    similarity, positives, negatives = _pairs(descriptors, labels, mined, rows)
    positive, negative = positives > 0, negatives > 0
    logits = similarity / temperature
    log_probability = logits - log_sum_exp(logits, positive | negative)[:, None]
    count = positive.sum(1).astype(logits.dtype)
    losses = -jnp.sum(log_probability, 1, where=positive) / jnp.maximum(count, 1)
    # A positive alone has no loss, but perhaps one of rounding.
    counted = (losses > 0) & ((positive | negative).sum(1) > 1)
    return _if_pairs(mean(losses, counted, axis_name), positives, negatives, axis_name, both=True)


def circle(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    mined: Mined | None = None,
    *,
    m: float = 0.4,
    gamma: float = 80.0,
    rows: Int[Array, " r"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Circle loss: similarities weighted by how far each is from its optimum.

    Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020. The
    mean is over anchors with both kinds of pairs and a loss above zero.

    Descriptors [n, d] and labels [n] → a scalar; see `mixvpr_jax.losses` for what all losses take.

    Examples:
        >>> print(f"{circle(jnp.eye(2), jnp.array([0, 1])):.3f}")
        0.000
    """
    similarity, positives, negatives = _pairs(descriptors, labels, mined, rows)
    positive, negative = positives > 0, negatives > 0
    fixed = lax.stop_gradient(similarity)
    attract = -gamma * jax.nn.relu(1 + m - fixed) * (similarity - (1 - m))
    repel = gamma * jax.nn.relu(fixed + m) * (similarity - m)
    losses = jax.nn.softplus(log_sum_exp(attract, positive) + log_sum_exp(repel, negative))
    counted = positive.any(1) & negative.any(1) & (losses > 0)
    return _if_pairs(mean(losses, counted, axis_name), positives, negatives, axis_name)


def contrastive(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    mined: Mined | None = None,
    *,
    pos_margin: float = 0.0,
    neg_margin: float = 1.0,
    rows: Int[Array, " r"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Contrastive loss on L2 distances: positives pulled together, negatives pushed to a margin.

    Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006. The sum
    of two means, each over its pairs with a loss above zero.

    Descriptors [n, d] and labels [n] → a scalar; see `mixvpr_jax.losses` for what all losses take.

    Examples:
        >>> print(f"{contrastive(jnp.eye(2), jnp.array([0, 0])):.3f}")
        1.414
    """
    similarity, positives, negatives = _pairs(descriptors, labels, mined, rows)
    distance = distances(similarity)
    pull, push = jax.nn.relu(distance - pos_margin), jax.nn.relu(neg_margin - distance)
    loss = mean(pull, jnp.where(pull > 0, positives, 0), axis_name)
    loss += mean(push, jnp.where(push > 0, negatives, 0), axis_name)
    return _if_pairs(loss, positives, negatives, axis_name)


def lifted(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    mined: Mined | None = None,
    *,
    pos_margin: float = 1.0,
    neg_margin: float = 0.0,
    rows: Int[Array, " r"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Generalised lifted structure loss: soft maxima of both kinds of pairs, hinged together.

    Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017. The mean is
    over all anchors.

    Descriptors [n, d] and labels [n] → a scalar; see `mixvpr_jax.losses` for what all losses take.

    Examples:
        >>> print(f"{lifted(jnp.eye(2), jnp.array([0, 0])):.3f}")
        1.000
    """
    similarity, positives, negatives = _pairs(descriptors, labels, mined, rows)
    attract = log_sum_exp(pos_margin - similarity, positives > 0)
    repel = log_sum_exp(similarity - neg_margin, negatives > 0)
    loss = mean(jax.nn.relu(attract + repel), _anchors(labels, rows), axis_name)
    return _if_pairs(loss, positives, negatives, axis_name)


def nt_xent(
    descriptors: Float[Array, "n d"],
    labels: Int[Array, " n"],
    mined: Mined | None = None,
    *,
    temperature: float = 0.07,
    rows: Int[Array, " r"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Normalised temperature-scaled cross entropy: each positive against its anchor's negatives.

    Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NeurIPS 2016. The
    mean is over positive pairs. A pair in several mined triplets counts as often.

    Descriptors [n, d] and labels [n] → a scalar; see `mixvpr_jax.losses` for what all losses take.

    Examples:
        >>> print(f"{nt_xent(jnp.eye(3), jnp.array([0, 0, 1])):.3f}")
        0.693
    """
    similarity, positives, negatives = _pairs(descriptors, labels, mined, rows)
    logits = similarity / temperature
    repeats = jnp.log(jnp.maximum(negatives, 1))
    against = log_sum_exp(logits + repeats, negatives > 0, empty=-jnp.inf)
    losses = jnp.logaddexp(logits, against[:, None]) - logits
    return _if_pairs(mean(losses, positives, axis_name), positives, negatives, axis_name, both=True)


def _pairs(
    descriptors: Array, labels: Array, mined: Mined | None, rows: Array | None
) -> tuple[Float[Array, "r n"], Float[Array, "r n"], Float[Array, "r n"]]:
    """Similarities, and how often each pair was mined as a positive and as a negative."""
    similarity = similarities(descriptors, rows)
    mined = all_pairs(labels, rows) if mined is None else mined
    if isinstance(mined, Triplets):
        counts = mined.mask.sum(2), mined.mask.sum(1)
    else:
        counts = mined.positive, mined.negative
    positive, negative = (count.astype(similarity.dtype) for count in counts)
    return similarity, positive, negative


def _anchors(labels: Array, rows: Array | None) -> Bool[Array, " r"]:
    return (labels if rows is None else labels[rows]) >= 0


def _if_pairs(
    loss: Array, positive: Array, negative: Array, axis_name: str | None, *, both: bool = False
) -> Float[Array, ""]:
    """The official code's rule: zero where at most one pair of either kind was mined.

    With `both`, zero also where one kind is missing altogether.
    """
    positives, negatives = (total(mask.sum(), axis_name) for mask in (positive, negative))
    enough = (positives > 1) | (negatives > 1)
    if both:
        enough &= (positives > 0) & (negatives > 0)
    return jnp.where(enough, loss, 0)
