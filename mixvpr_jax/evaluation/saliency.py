"""Where the model looks: which cells of the feature map a match hangs on."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mixvpr_jax.models.vpr import VPRModel


def compile_saliency(
    model: VPRModel,
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A compiled function of a query and its match, normalised [h, w, 3] each → a map of each.

    A cell's weight is the change of the descriptors' similarity with the cell's features, to first
    order: |Σ_c feature_c · d similarity / d feature_c|, "gradient times input" (Shrikumar et al.,
    2016; Selvaraju et al.'s Grad-CAM without its mean over cells, which the mixer's positions are
    no copies of). The maps [h2, w2] are scaled to a largest value of 1.
    """
    graph, state = nnx.split(model)

    @jax.jit
    def maps(pair: Float[Array, "2 h w 3"]) -> Float[Array, "2 h2 w2"]:
        own = nnx.merge(graph, state)
        features = own.backbone(jnp.asarray(pair, own.config.dtype))
        weights = jnp.abs((features * jax.grad(similarity)(features)).sum(-1))
        largest = weights.max(axis=(1, 2), keepdims=True)
        return (weights / jnp.maximum(largest, 1e-30)).astype(jnp.float32)

    def similarity(features: Float[Array, "2 h2 w2 c"]) -> Float[Array, ""]:
        query, match = nnx.merge(graph, state).aggregator(features)
        return jnp.vdot(query, match)

    def of_pair(query: np.ndarray, match: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        query_map, match_map = np.asarray(maps(np.stack([query, match])))
        return query_map, match_map

    return of_pair
