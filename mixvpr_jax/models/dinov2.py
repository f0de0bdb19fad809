"""DINOv2's vision transformers (Oquab et al., 2023; registers: Darcet et al., 2024).

Names and arithmetic are those of facebookresearch/dinov2: `dinov2_vits14` to `dinov2_vitg14`, and
the same with registers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mixvpr_jax.models.backbones import PATCH, VITS, ViTShape
from mixvpr_jax.models.config import Dtype, ModelConfig
from mixvpr_jax.models.layers import Sequence, param_dtype, precision, small_linear, small_normal
from mixvpr_jax.models.positions import antialiased_bicubic, interpolate, offset_bicubic, to_float32
from mixvpr_jax.models.transformer import MLP, Norm, PatchEmbedding, attend

POSITIONS = 37  # along a side of the square that the position embeddings were trained for


class LayerScale(nnx.Module):
    """A factor for each channel, which begins at 1, as in `torch.hub`'s models."""

    def __init__(self, width: int, *, dtype: Dtype) -> None:
        self.gamma = nnx.Param(jnp.ones(width, param_dtype(dtype)))

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        return x * self.gamma[...][None, None].astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head self-attention over all tokens of an image."""

    def __init__(self, shape: ViTShape, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.qkv = small_linear(shape.width, 3 * shape.width, dtype=dtype, rngs=rngs)
        self.proj = small_linear(shape.width, shape.width, dtype=dtype, rngs=rngs)
        self.heads, self.precision = shape.heads, precision(dtype)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        mixed = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], self.precision)
        return self.proj(mixed.reshape(x.shape))


class SwiGLU(nnx.Module):
    """A gated MLP: Linear(SiLU(a) b), where a and b are the halves of one product."""

    def __init__(self, width: int, hidden: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.w12 = small_linear(width, 2 * hidden, dtype=dtype, rngs=rngs)
        self.w3 = small_linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        gate, value = jnp.split(self.w12(x), 2, axis=-1)
        return self.w3(jax.nn.silu(gate) * value)


class Block(nnx.Module):
    """Attention, then an MLP, each normalised before and scaled before it is added."""

    def __init__(self, shape: ViTShape, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.norm1 = Norm(shape.width, dtype=dtype)
        self.attn = Attention(shape, dtype=dtype, rngs=rngs)
        self.ls1 = LayerScale(shape.width, dtype=dtype)
        self.norm2 = Norm(shape.width, dtype=dtype)
        mlp = SwiGLU if shape.swiglu else MLP
        self.mlp = mlp(shape.width, shape.hidden, dtype=dtype, rngs=rngs)
        self.ls2 = LayerScale(shape.width, dtype=dtype)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DINOv2(nnx.Module):
    """Normalised images [b, h, w, 3] → feature map [b, h / 14, w / 14, c].

    Height and width are multiples of 14. `tokens` gives the class token as well. All tokens pass
    the last LayerNorm, unless the configuration's `final_norm` is off.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        shape, dtype = VITS[config.arch], config.dtype
        wide = param_dtype(dtype)

        def token(count: int) -> nnx.Param:
            start = nnx.initializers.normal(1e-6)
            return nnx.Param(start(rngs.params(), (1, count, shape.width), wide))

        self.cls_token = token(1)
        places = 1, 1 + POSITIONS**2, shape.width
        self.pos_embed = nnx.Param(small_normal(rngs.params(), places, wide))
        if shape.num_registers:
            self.register_tokens = token(shape.num_registers)
        # Of pre-training alone; like a `norm` that is not used, kept so that weights are the
        # authors' both ways.
        self.mask_token = nnx.Param(jnp.zeros((1, shape.width), wide))
        self.patch_embed = PatchEmbedding(PATCH, shape.width, dtype=dtype, rngs=rngs)
        self.blocks = Sequence(Block(shape, dtype=dtype, rngs=rngs) for _ in range(shape.depth))
        self.norm = Norm(shape.width, dtype=dtype)
        self.num_registers = shape.num_registers
        self.final_norm = config.final_norm

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        return self.tokens(images)[0]

    def tokens(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b h2 w2 c"], Float[Array, "b c"]]:
        """The feature map and the class token."""
        x = self.patch_embed(images)
        batch, rows, columns, width = x.shape
        x = self._before(self.cls_token, x.reshape(batch, rows * columns, width))
        x = x + self.positions(rows, columns).astype(x.dtype)[None]
        if self.num_registers:  # which have no positions
            x = jnp.concatenate([x[:, :1], self._before(self.register_tokens, x[:, 1:])], axis=1)
        x = self.blocks(x)
        if self.final_norm:
            x = self.norm(x)
        patches = x[:, 1 + self.num_registers :]
        return patches.reshape(batch, rows, columns, width), x[:, 0]

    def _before(self, tokens: nnx.Param, x: Float[Array, "b n c"]) -> Float[Array, "b m c"]:
        """Tokens of the model, [1, k, c], before those of each image."""
        shape = x.shape[0], *tokens.shape[1:]  # whose batch may be symbolic
        return jnp.concatenate([jnp.broadcast_to(tokens[...].astype(x.dtype), shape), x], axis=1)

    def positions(self, rows: int, columns: int) -> Float[Array, "n c"]:
        """The position embeddings of the class token and of a map of any size."""
        embedding = self.pos_embed[...][0]
        if (rows, columns) == (POSITIONS, POSITIONS):
            return embedding
        # The models with registers were published with a later interpolation.
        taps = antialiased_bicubic if self.num_registers else offset_bicubic
        grid = embedding[1:].reshape(POSITIONS, POSITIONS, -1)
        grid = interpolate(grid, taps(rows, POSITIONS), taps(columns, POSITIONS))
        return jnp.concatenate([to_float32(embedding[:1]), grid.reshape(rows * columns, -1)])
