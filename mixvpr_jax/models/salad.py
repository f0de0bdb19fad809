"""SALAD's aggregator (Izquierdo, Civera, CVPR 2024), written from the paper."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import Dtype, ModelConfig, SALADConfig
from mixvpr_jax.models.layers import l2_normalize, linear, param_dtype, relu

HIDDEN = 512  # width of the three MLPs
ITERATIONS = 3  # of Sinkhorn's algorithm


class TwoLayers(nnx.Module):
    """Linear, ReLU, Linear over the last axis."""

    def __init__(self, inputs: int, outputs: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.expand = linear(inputs, HIDDEN, dtype=dtype, rngs=rngs)
        self.project = linear(HIDDEN, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        return self.project(relu(self.expand(x)))


class SALAD(nnx.Module):
    """Feature map [b, h, w, c] and class token [b, c] → descriptors [b, d].

    Optimal transport shares out each position among the clusters and a dustbin, whose share is
    dropped. A descriptor holds the class token's `token_dim` features, then the clusters' sums:
    its index is token_dim + feature * num_clusters + cluster.

    There is no dropout, which the paper trains with (0.3).
    """

    def __init__(self, config: ModelConfig, salad: SALADConfig, *, rngs: nnx.Rngs) -> None:
        channels, dtype = config.feature_channels, config.dtype
        self.token_features = TwoLayers(channels, salad.token_dim, dtype=dtype, rngs=rngs)
        self.cluster_features = TwoLayers(channels, salad.cluster_dim, dtype=dtype, rngs=rngs)
        self.score = TwoLayers(channels, salad.num_clusters, dtype=dtype, rngs=rngs)
        self.dust_bin = nnx.Param(jnp.ones((), param_dtype(dtype)))

    def __call__(
        self, x: Float[Array, "b h w c"], token: Float[Array, "b c"]
    ) -> Float[Array, "b d"]:
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        wide = self.dust_bin.dtype
        shares = transport(self.score(x).astype(wide), self.dust_bin[...])
        features = self.cluster_features(x).astype(wide)
        clusters = jnp.einsum("bnm,bnd->bmd", shares, features, precision=jax.lax.Precision.HIGHEST)
        clusters = l2_normalize(clusters).swapaxes(1, 2).reshape(x.shape[0], -1)
        token = l2_normalize(self.token_features(token).astype(wide))
        return l2_normalize(jnp.concatenate([token, clusters], axis=1))


def transport(scores: Float[Array, "b n m"], dust_bin: Float[Array, ""]) -> Float[Array, "b n m"]:
    """Shares of n positions in m clusters: an entropic transport plan without its dustbin.

    A position gives 1, a cluster takes 1, the dustbin the n - m that are left. Sinkhorn's
    algorithm (Cuturi, 2013) runs on logarithms, and ends with the positions.

    Raises:
        InputError: As many clusters as positions, or more.
    """
    batch, positions, clusters = scores.shape
    if positions <= clusters:
        raise InputError(
            f"SALAD: expected a feature map of more than {clusters} positions (its clusters), "
            f"found {positions}; give larger images"
        )
    dust = jnp.broadcast_to(dust_bin[None, None, None], (batch, positions, 1))
    scores = jnp.concatenate([scores, dust], axis=2)
    takes = jnp.ones(clusters + 1, scores.dtype).at[-1].set(positions - clusters)
    for _ in range(ITERATIONS):
        scores += jnp.log(takes)[None, None] - jax.nn.logsumexp(scores, axis=1, keepdims=True)
        scores -= jax.nn.logsumexp(scores, axis=2, keepdims=True)
    return jnp.exp(scores)[:, :, :-1]
