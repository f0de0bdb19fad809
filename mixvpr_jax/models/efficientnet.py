"""EfficientNet B0 to B4 (Tan & Le, ICML 2019), as timm 1.0's `forward_features` computes them.

Convolutions pad symmetrically, unlike those of the authors' TensorFlow weights (timm's `tf_…`), and
no path is dropped in training, as by default in timm.
"""

from __future__ import annotations

import math
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from mixvpr_jax.models.backbones import EFFICIENTNETS, Stage
from mixvpr_jax.models.config import Dtype, ModelConfig
from mixvpr_jax.models.layers import Conv, Sequence, he_normal_fan_out, linear
from mixvpr_jax.models.normalization import BatchNorm, normalized_conv


class SqueezeExcite(nnx.Module):
    """A factor for each channel, from the channels' means."""

    def __init__(self, channels: int, inner: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        start = {"kernel_init": he_normal_fan_out, "bias_init": nnx.initializers.zeros_init()}
        self.conv_reduce = linear(channels, inner, **start, dtype=dtype, rngs=rngs)
        self.conv_expand = linear(inner, channels, **start, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        squeezed = jax.nn.silu(self.conv_reduce(x.mean((1, 2))))
        return x * jax.nn.sigmoid(self.conv_expand(squeezed))[:, None, None]


class DepthwiseSeparable(nnx.Module):
    """A depthwise convolution, squeeze and excitation, a 1x1 convolution."""

    convs: ClassVar = {"bn1": "conv_dw", "bn2": "conv_pw"}

    def __init__(
        self, channels: int, stage: Stage, *, stride: int, dtype: Dtype, rngs: nnx.Rngs
    ) -> None:
        self.conv_dw = _depthwise(channels, stage.kernel, stride=stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(channels, dtype=dtype)
        self.se = SqueezeExcite(channels, round(channels / 4), dtype=dtype, rngs=rngs)
        self.conv_pw = Conv(channels, stage.channels, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(stage.channels, dtype=dtype)
        self.has_shortcut = stride == 1 and channels == stage.channels

    def __call__(
        self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b h2 w2 c2"]:
        y = self.se(jax.nn.silu(normalized_conv(self.conv_dw, self.bn1, x, valid)))
        y = normalized_conv(self.conv_pw, self.bn2, y, valid)
        return y + x if self.has_shortcut else y


class InvertedResidual(nnx.Module):
    """The same between two 1x1 convolutions, of which the first widens."""

    convs: ClassVar = {"bn1": "conv_pw", "bn2": "conv_dw", "bn3": "conv_pwl"}

    def __init__(
        self, channels: int, stage: Stage, *, stride: int, dtype: Dtype, rngs: nnx.Rngs
    ) -> None:
        inner = channels * stage.expansion
        self.conv_pw = Conv(channels, inner, 1, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(inner, dtype=dtype)
        self.conv_dw = _depthwise(inner, stage.kernel, stride=stride, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(inner, dtype=dtype)
        self.se = SqueezeExcite(inner, round(channels / 4), dtype=dtype, rngs=rngs)
        self.conv_pwl = Conv(inner, stage.channels, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(stage.channels, dtype=dtype)
        self.has_shortcut = stride == 1 and channels == stage.channels

    def __call__(
        self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b h2 w2 c2"]:
        y = jax.nn.silu(normalized_conv(self.conv_pw, self.bn1, x, valid))
        y = self.se(jax.nn.silu(normalized_conv(self.conv_dw, self.bn2, y, valid)))
        y = normalized_conv(self.conv_pwl, self.bn3, y, valid)
        return y + x if self.has_shortcut else y


class EfficientNet(nnx.Module):
    """Normalised images [b, h, w, 3] → feature map [b, h / 32, w / 32, c], rounded up."""

    convs: ClassVar = {"bn1": "conv_stem", "bn2": "conv_head"}

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        shape, dtype = EFFICIENTNETS[config.arch], config.dtype
        channels, outer = shape.scaled(32), config.feature_channels
        self.conv_stem = Conv(3, channels, 3, stride=2, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(channels, dtype=dtype)
        stages = []
        for stage in shape.stages:
            block = DepthwiseSeparable if stage.expansion == 1 else InvertedResidual
            blocks = []
            for index in range(stage.blocks):
                stride = stage.stride if index == 0 else 1
                blocks.append(block(channels, stage, stride=stride, dtype=dtype, rngs=rngs))
                channels = stage.channels
            stages.append(Sequence(blocks))
        self.blocks = Sequence(stages)
        self.conv_head = Conv(channels, outer, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(outer, dtype=dtype)

    def __call__(
        self, images: Float[Array, "b h w 3"], valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        x = jax.nn.silu(normalized_conv(self.conv_stem, self.bn1, images, valid))
        x = self.blocks(x, valid)
        return jax.nn.silu(normalized_conv(self.conv_head, self.bn2, x, valid))


def _depthwise(channels: int, size: int, *, stride: int, dtype: Dtype, rngs: nnx.Rngs) -> Conv:
    conv = Conv(channels, channels, size, stride=stride, groups=channels, dtype=dtype, rngs=rngs)
    # Whose fan_out timm divides by the groups.
    conv.kernel.set_value(conv.kernel[...] * math.sqrt(channels))
    return conv
