"""BoQ's aggregator, bags of learned queries (Ali-bey, Chaib-draa, Giguère, CVPR 2024).

Official file: src/boq.py of amaralibey/Bag-of-Queries.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mixvpr_jax.models.config import BoQConfig, Dtype, ModelConfig
from mixvpr_jax.models.layers import Sequence, l2_normalize, like_torch, linear, param_dtype, relu
from mixvpr_jax.models.transformer import MultiHeadAttention, Norm

EPSILON = 1e-5  # of LayerNorm


class Encoder(nnx.Module):
    """torch.nn.TransformerEncoderLayer: attention, then an MLP, each added and then normalised."""

    def __init__(self, width: int, heads: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.self_attn = MultiHeadAttention(width, heads, dtype=dtype, rngs=rngs)
        self.linear1 = linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.linear2 = linear(4 * width, width, dtype=dtype, rngs=rngs)
        self.norm1 = Norm(width, epsilon=EPSILON, dtype=dtype)
        self.norm2 = Norm(width, epsilon=EPSILON, dtype=dtype)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        x = self.norm1(x + self.self_attn(x, x))
        return self.norm2(x + self.linear2(relu(self.linear1(x))))


class BoQBlock(nnx.Module):
    """Tokens [b, n, c] → the encoded tokens, and what the learned queries read there [b, q, c]."""

    def __init__(self, width: int, num_queries: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        heads = width // BoQConfig.head_dim
        self.encoder = Encoder(width, heads, dtype=dtype, rngs=rngs)
        shape = 1, num_queries, width
        self.queries = nnx.Param(jax.random.normal(rngs.params(), shape, param_dtype(dtype)))
        self.self_attn = MultiHeadAttention(width, heads, dtype=dtype, rngs=rngs)
        self.norm_q = Norm(width, epsilon=EPSILON, dtype=dtype)
        self.cross_attn = MultiHeadAttention(width, heads, dtype=dtype, rngs=rngs)
        self.norm_out = Norm(width, epsilon=EPSILON, dtype=dtype)

    def __call__(
        self, x: Float[Array, "b n c"]
    ) -> tuple[Float[Array, "b n c"], Float[Array, "b q c"]]:
        x = self.encoder(x)
        queries = self.queries[...].astype(x.dtype)
        # The same for every image.
        queries = self.norm_q(queries + self.self_attn(queries, queries))
        queries = jnp.broadcast_to(queries, (x.shape[0], *queries.shape[1:]))
        return x, self.norm_out(self.cross_attn(queries, x))


class BoQ(nnx.Module):
    """Feature map [b, h, w, c] → descriptors [b, proj_channels * row_dim].

    The descriptor's index is channel * row_dim + row.
    """

    def __init__(self, config: ModelConfig, boq: BoQConfig, *, rngs: nnx.Rngs) -> None:
        width, options = boq.proj_channels, {"dtype": config.dtype, "rngs": rngs}
        begun = like_torch(9 * config.feature_channels, config.dtype, rngs)
        self.proj_c = nnx.Conv(config.feature_channels, width, (3, 3), padding=1, **begun)
        self.norm_input = Norm(width, epsilon=EPSILON, dtype=config.dtype)
        self.boqs = Sequence(
            BoQBlock(width, boq.num_queries, **options) for _ in range(boq.num_layers)
        )
        self.fc = linear(boq.num_layers * boq.num_queries, boq.row_dim, **options)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        x = self.proj_c(x)
        x = self.norm_input(x.reshape(x.shape[0], -1, x.shape[-1]))
        read = []
        for block in self.boqs:
            x, found = block(x)
            read.append(found)
        x = self.fc(jnp.concatenate(read, axis=1).swapaxes(1, 2))
        return l2_normalize(x.reshape(x.shape[0], -1).astype(self.fc.param_dtype))
