"""The backbone: torchvision's ResNet (V1) without its classifier, cut after stage 2, 3 or 4.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Xie et al., "Aggregated
Residual Transformations", CVPR 2017; Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from mixvpr_jax.models.backbones import RESNETS, ResNetShape
from mixvpr_jax.models.config import Dtype, ModelConfig
from mixvpr_jax.models.layers import Conv, Sequence, relu
from mixvpr_jax.models.normalization import BatchNorm, normalized_conv


class Downsample(nnx.Module):
    """The shortcut of a block that changes size or channels: a strided 1x1 convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, dtype: Dtype, rngs: nnx.Rngs
    ) -> None:
        self.conv = Conv(in_channels, out_channels, 1, stride=stride, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(out_channels, dtype=dtype)

    def __call__(
        self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b h2 w2 c2"]:
        return normalized_conv(self.conv, self.bn, x, valid)


class Block(nnx.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 (the stride in the 3x3)."""

    def __init__(
        self,
        in_channels: int,
        shape: ResNetShape,
        stage: int,
        *,
        stride: int,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        inner, outer = shape.inner_channels(stage), shape.out_channels(stage)
        if shape.bottleneck:
            strided = {"stride": stride, "groups": shape.groups}
            self.conv1 = Conv(in_channels, inner, 1, dtype=dtype, rngs=rngs)
            self.conv2 = Conv(inner, inner, 3, **strided, dtype=dtype, rngs=rngs)
            self.conv3 = Conv(inner, outer, 1, dtype=dtype, rngs=rngs)
            self.bn3 = BatchNorm(outer, dtype=dtype)
        else:
            self.conv1 = Conv(in_channels, inner, 3, stride=stride, dtype=dtype, rngs=rngs)
            self.conv2 = Conv(inner, outer, 3, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(inner, dtype=dtype)
        self.bn2 = BatchNorm(inner, dtype=dtype)
        if stride != 1 or in_channels != outer:
            self.downsample = Downsample(in_channels, outer, stride=stride, dtype=dtype, rngs=rngs)
        self.bottleneck = shape.bottleneck

    def __call__(
        self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b h2 w2 c2"]:
        y = relu(normalized_conv(self.conv1, self.bn1, x, valid))
        y = normalized_conv(self.conv2, self.bn2, y, valid)
        if self.bottleneck:
            y = normalized_conv(self.conv3, self.bn3, relu(y), valid)
        shortcut = self.downsample(x, valid) if hasattr(self, "downsample") else x
        return relu(y + shortcut)


class ResNet(nnx.Module):
    """Normalised images [b, h, w, 3] → feature map [b, h / stride, w / stride, c]."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        shape, dtype = RESNETS[config.arch], config.dtype
        self.conv1 = Conv(3, 64, 7, stride=2, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(64, dtype=dtype)
        channels = 64
        for stage in range(1, config.num_stages + 1):
            blocks = []
            for index in range(shape.blocks[stage - 1]):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(Block(channels, shape, stage, stride=stride, dtype=dtype, rngs=rngs))
                channels = shape.out_channels(stage)
            setattr(self, f"layer{stage}", Sequence(blocks))
        self.num_stages = config.num_stages

    def __call__(
        self, images: Float[Array, "b h w 3"], valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        x = max_pool(relu(normalized_conv(self.conv1, self.bn1, images, valid)))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{stage}")(x, valid)
        return x


@jax.custom_jvp
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """3x3 maximum with stride 2, padded by one on every side.

    Its derivative is that of `_max_of_shifts`, as XLA's takes three times as long on a CPU. Tied
    maxima share the gradient, which PyTorch gives to the first; after a ReLU, ties in practice are
    zeros, whose gradient is zero anyway.
    """
    return lax.reduce_window(
        x,
        np.array(-np.inf, x.dtype),
        lax.max,
        window_dimensions=(1, 3, 3, 1),
        window_strides=(1, 2, 2, 1),
        padding=((0, 0), (1, 1), (1, 1), (0, 0)),
    )


def _max_of_shifts(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The same maximum, over three shifted rows and then three shifted columns."""
    height, width = (2 * ((size - 1) // 2) + 1 for size in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    first, second, third = (padded[:, start : start + height : 2] for start in range(3))
    rows = jnp.maximum(jnp.maximum(first, second), third)
    first, second, third = (rows[:, :, start : start + width : 2] for start in range(3))
    return jnp.maximum(jnp.maximum(first, second), third)


@max_pool.defjvp
def _max_pool_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    @jax.checkpoint  # recomputes the comparisons in the backward pass
    def derivative(x: Array, direction: Array) -> Array:
        return jax.jvp(_max_of_shifts, (x,), (direction,))[1]

    return max_pool(*primals), derivative(*primals, *tangents)
