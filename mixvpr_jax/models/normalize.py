"""L2 normalisation, as every aggregator ends."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def l2_normalize(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Scales the last axis to unit norm; zero stays zero, with a gradient that is finite.

    As torch.nn.functional.normalize, whose norm is at least 1e-12.
    """
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squared, 1e-24))
