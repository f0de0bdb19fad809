"""Swin Transformer V2 (Liu et al., CVPR 2022), as timm 1.0's `forward_features` computes it.

timm by default drops paths in training (`drop_path_rate=0.1`); none is dropped here.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mixvpr_jax.models.backbones import SWINS, SwinShape
from mixvpr_jax.models.config import Dtype, ModelConfig
from mixvpr_jax.models.layers import (
    Sequence,
    l2_normalize,
    param_dtype,
    precision,
    relu,
    small_linear,
)
from mixvpr_jax.models.transformer import MLP, Norm, PatchEmbedding

PATCH = 4  # pixels of a patch
EPSILON = 1e-5  # of LayerNorm
HIDDEN = 512  # width of the MLP that gives the position bias
APART = -100.0  # added to the scores of positions that only the shift brought together


class PositionBias(nnx.Module):
    """What attention adds for each offset between two positions of a window: [heads, n, n].

    An MLP computes it from the offsets on a logarithmic scale, in float32 or wider.
    """

    def __init__(
        self, window: int, trained: int, heads: int, *, dtype: Dtype, rngs: nnx.Rngs
    ) -> None:
        wide = param_dtype(dtype)
        self.fc1 = small_linear(2, HIDDEN, dtype=wide, rngs=rngs)
        self.fc2 = small_linear(HIDDEN, heads, use_bias=False, dtype=wide, rngs=rngs)
        self.window, self.trained, self.dtype = window, trained, wide

    def __call__(self) -> Float[Array, "h n n"]:
        steps = log_spaced(self.window, self.trained)
        offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1)
        table = self.fc2(relu(self.fc1(jnp.asarray(offsets, self.dtype))))
        along = np.arange(self.window)
        index = along[:, None] - along[None] + self.window - 1
        bias = table[index][:, :, index].transpose(4, 0, 2, 1, 3)  # rows, then columns, of both
        return 16 * jax.nn.sigmoid(bias.reshape(-1, self.window**2, self.window**2))


def log_spaced(window: int, trained: int) -> np.ndarray:
    """Offsets along a side of a window, as a logarithm; timm computes them in float32."""
    steps = np.arange(1 - window, window, dtype=np.float32) / np.float32(max(trained - 1, 1)) * 8
    logarithms = np.log2(np.abs(steps) + 1, dtype=np.float64).astype(np.float32)
    return np.sign(steps) * logarithms / np.float32(3)


class Attention(nnx.Module):
    """Attention by cosines among the positions of each window; keys have no bias.

    Cosines and softmax are float32 or wider.
    """

    def __init__(
        self, window: int, trained: int, width: int, heads: int, *, dtype: Dtype, rngs: nnx.Rngs
    ) -> None:
        wide = param_dtype(dtype)
        self.qkv = small_linear(width, 3 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.q_bias = nnx.Param(jnp.zeros(width, wide))
        self.v_bias = nnx.Param(jnp.zeros(width, wide))
        self.logit_scale = nnx.Param(jnp.full((heads, 1, 1), math.log(10), wide))
        self.cpb_mlp = PositionBias(window, trained, heads, dtype=dtype, rngs=rngs)
        self.proj = small_linear(width, width, dtype=dtype, rngs=rngs)
        self.heads, self.precision = heads, precision(dtype)

    def __call__(
        self, x: Float[Array, "b m n c"], mask: Float[Array, "m n n"] | None
    ) -> Float[Array, "b m n c"]:
        bias = [self.q_bias[...], jnp.zeros_like(self.q_bias[...]), self.v_bias[...]]
        qkv = self.qkv(x) + jnp.concatenate(bias).astype(x.dtype)[None, None, None]
        qkv = qkv.reshape(*x.shape[:3], 3, self.heads, -1)
        scale = jnp.exp(jnp.minimum(self.logit_scale[...], math.log(100)))
        query, key, value = qkv[:, :, :, 0], qkv[:, :, :, 1], qkv[:, :, :, 2]
        bias = self.cpb_mlp()[None] if mask is None else self.cpb_mlp()[None] + mask[:, None]
        wide, exact = scale.dtype, self.precision
        query, key = (l2_normalize(one.astype(wide)).astype(value.dtype) for one in (query, key))
        cosines = jnp.einsum(
            "bmqhd,bmkhd->bmhqk", query, key, precision=exact, preferred_element_type=wide
        )
        weights = jax.nn.softmax(cosines * scale[None, None] + bias[None]).astype(value.dtype)
        mixed = jnp.einsum("bmhqk,bmkhd->bmqhd", weights, value, precision=exact)
        return self.proj(mixed.reshape(x.shape))


class Block(nnx.Module):
    """Attention in windows, then an MLP, each normalised before it is added.

    In every second block the windows are shifted by half of their size, where there is more than
    one.
    """

    def __init__(
        self, shape: SwinShape, stage: int, index: int, *, dtype: Dtype, rngs: nnx.Rngs
    ) -> None:
        self.side = shape.side // PATCH // 2**stage  # of the map
        self.window = min(shape.window, self.side)
        self.shift = self.window // 2 if index % 2 and self.side > self.window else 0
        width, trained = shape.width * 2**stage, shape.trained_windows[stage]
        options = {"dtype": dtype, "rngs": rngs}
        closed = {"epsilon": EPSILON, "scale": 0.0, "dtype": dtype}  # so that a block adds nothing
        self.attn = Attention(self.window, trained, width, shape.heads[stage], **options)
        self.norm1 = Norm(width, **closed)
        self.mlp = MLP(width, 4 * width, **options)
        self.norm2 = Norm(width, **closed)

    def __call__(self, x: Float[Array, "b s s c"]) -> Float[Array, "b s s c"]:
        x = x + self.norm1(self._attention(x))
        return x + self.norm2(self.mlp(x))

    def _attention(self, x: Float[Array, "b s s c"]) -> Float[Array, "b s s c"]:
        if not self.shift:
            return _joined(self.attn(_windows(x, self.window), None), self.window, self.side)
        windows = _windows(jnp.roll(x, (-self.shift, -self.shift), (1, 2)), self.window)
        joined = _joined(self.attn(windows, self.mask()), self.window, self.side)
        return jnp.roll(joined, (self.shift, self.shift), (1, 2))

    def mask(self) -> Float[Array, "m n n"]:
        """What shifted windows add to the scores of positions that lay apart before the shift."""
        region = np.zeros(self.side, np.int32)  # along a side: what lay together
        region[-self.window :], region[-self.shift :] = 1, 2
        regions = jnp.asarray(3 * region[:, None] + region[None])[None, ..., None]
        regions = _windows(regions, self.window)[0, ..., 0]
        apart = regions[:, None] != regions[..., None]
        return jnp.where(apart, jnp.asarray(APART, self.attn.cpb_mlp.dtype), 0)


def _windows(x: Array, window: int) -> Array:
    """[b, s, s, c] → [b, windows, positions of a window, c]."""
    batch, side, _, channels = x.shape
    count = side // window
    x = x.reshape(batch, count, window, count, window, channels).swapaxes(2, 3)
    return x.reshape(batch, count**2, window**2, channels)


def _joined(x: Array, window: int, side: int) -> Array:
    """The inverse of `_windows`."""
    count, channels = side // window, x.shape[-1]
    x = x.reshape(-1, count, count, window, window, channels).swapaxes(2, 3)
    return x.reshape(-1, side, side, channels)


class Downsample(nnx.Module):
    """Four neighbours become one position, with twice the channels, normalised."""

    def __init__(self, width: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.reduction = small_linear(4 * width, 2 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.norm = Norm(2 * width, epsilon=EPSILON, dtype=dtype)

    def __call__(self, x: Float[Array, "b s s c"]) -> Float[Array, "b s2 s2 c2"]:
        batch, side, _, width = x.shape
        x = x.reshape(batch, side // 2, 2, side // 2, 2, width).transpose(0, 1, 3, 4, 2, 5)
        return self.norm(self.reduction(x.reshape(batch, side // 2, side // 2, 4 * width)))


class Layer(nnx.Module):
    """A stage: all but the first halve the map before their blocks."""

    def __init__(self, shape: SwinShape, stage: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        if stage:
            self.downsample = Downsample(shape.width * 2 ** (stage - 1), dtype=dtype, rngs=rngs)
        self.blocks = Sequence(
            Block(shape, stage, index, dtype=dtype, rngs=rngs)
            for index in range(shape.blocks[stage])
        )

    def __call__(self, x: Float[Array, "b s s c"]) -> Float[Array, "b s2 s2 c2"]:
        return self.blocks(self.downsample(x) if hasattr(self, "downsample") else x)


class NormedPatches(PatchEmbedding):
    """Patches that are normalised."""

    def __init__(self, width: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        super().__init__(PATCH, width, dtype=dtype, rngs=rngs)
        self.norm = Norm(width, epsilon=EPSILON, dtype=dtype)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        return self.norm(super().__call__(images))


class Swin(nnx.Module):
    """Normalised square images [b, s, s, 3] → feature map [b, s / 32, s / 32, c], normalised."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        shape, dtype = SWINS[config.arch], config.dtype
        self.patch_embed = NormedPatches(shape.width, dtype=dtype, rngs=rngs)
        self.layers = Sequence(
            Layer(shape, stage, dtype=dtype, rngs=rngs) for stage in range(len(shape.blocks))
        )
        self.norm = Norm(config.feature_channels, epsilon=EPSILON, dtype=dtype)

    def __call__(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b s2 s2 c"]:
        return self.norm(self.layers(self.patch_embed(images)))
