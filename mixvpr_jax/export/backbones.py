"""Backbones as nodes: normalised images [b, 3, h, w] → the tensor of a feature map."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from mixvpr_jax.export.nodes import FeatureMap, Graph, wide
from mixvpr_jax.models import dinov2 as vits
from mixvpr_jax.models import resnet as resnets
from mixvpr_jax.models import swin as swins
from mixvpr_jax.models.backbones import PATCH
from mixvpr_jax.models.config import ModelConfig, SALADConfig
from mixvpr_jax.models.dinov2 import DINOv2
from mixvpr_jax.models.efficientnet import (
    DepthwiseSeparable,
    EfficientNet,
    InvertedResidual,
    SqueezeExcite,
)
from mixvpr_jax.models.resnet import ResNet
from mixvpr_jax.models.swin import Swin


def _resnet(graph: Graph, backbone: ResNet, x: str, config: ModelConfig) -> FeatureMap:
    x = graph.add("Relu", graph.conv(backbone.conv1, backbone.bn1, x))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    for stage in range(1, backbone.num_stages + 1):
        for block in getattr(backbone, f"layer{stage}"):
            x = _residual(graph, block, x)
    return FeatureMap(x, config.feature_channels, config.feature_size)


def _residual(graph: Graph, block: resnets.Block, x: str) -> str:
    y = graph.add("Relu", graph.conv(block.conv1, block.bn1, x))
    y = graph.conv(block.conv2, block.bn2, y)
    if block.bottleneck:
        y = graph.conv(block.conv3, block.bn3, graph.add("Relu", y))
    if hasattr(block, "downsample"):
        x = graph.conv(block.downsample.conv, block.downsample.bn, x)
    return graph.add("Relu", graph.add("Add", y, x))


def _dinov2(graph: Graph, backbone: DINOv2, x: str, config: ModelConfig) -> FeatureMap:
    size, width = config.feature_size, config.feature_channels
    x = graph.reshape(graph.patches(backbone.patch_embed.proj.kernel, x, PATCH), 0, -1, width)
    # Zeros take the places of class token and registers, which are added with the positions.
    first = 1 + backbone.num_registers
    x = graph.add("Pad", x, [0, first, 0, 0, 0, 0])
    x = graph.add("Add", x, _constant(backbone, *size))
    for block in backbone.blocks:
        x = _block(graph, block, x)
    if backbone.final_norm:
        x = graph.layer_norm(backbone.norm, x)
    patches, token = graph.part(x, 1, first, first + size[0] * size[1]), None
    if isinstance(config.aggregator, SALADConfig):
        token = graph.reshape(graph.part(x, 1, 0, 1), 0, width)
    return FeatureMap(patches, width, size, is_tokens=True, token=token)


def _constant(backbone: DINOv2, rows: int, columns: int) -> np.ndarray:
    """What is added to tokens, whatever the image: [1 + registers + rows * columns, c]."""
    positions = wide(backbone.positions(rows, columns))
    before = [wide(backbone.cls_token)[0] + positions[:1]]
    if backbone.num_registers:
        before.append(wide(backbone.register_tokens)[0])
    return np.concatenate([*before, positions[1:] + wide(backbone.patch_embed.proj.bias)])


def _block(graph: Graph, block: vits.Block, x: str) -> str:
    y = graph.layer_norm(block.norm1, x)
    y = graph.attention(y, y, block.attn.qkv, block.attn.heads)
    x = graph.add("Add", x, _scaled(graph, block.attn.proj, block.ls1, y))
    y = graph.layer_norm(block.norm2, x)
    if isinstance(block.mlp, vits.SwiGLU):
        y, last = _gated(graph, block.mlp.w12, y), block.mlp.w3
    else:
        y, last = graph.gelu(graph.linear(block.mlp.fc1, y)), block.mlp.fc2
    return graph.add("Add", x, _scaled(graph, last, block.ls2, y))


def _gated(graph: Graph, layer: nnx.Linear, x: str) -> str:
    kernels, biases = (np.split(wide(w), 2, axis=-1) for w in (layer.kernel, layer.bias))
    gate, value = (graph.product(x, *each) for each in zip(kernels, biases, strict=True))
    return graph.add("Mul", _silu(graph, gate), value)


def _scaled(graph: Graph, layer: nnx.Linear, scale: vits.LayerScale, x: str) -> str:
    """A Linear layer that holds the LayerScale after it."""
    gamma = wide(scale.gamma)
    return graph.product(x, wide(layer.kernel) * gamma, wide(layer.bias) * gamma)


def _efficientnet(graph: Graph, backbone: EfficientNet, x: str, config: ModelConfig) -> FeatureMap:
    x = _silu(graph, graph.conv(backbone.conv_stem, backbone.bn1, x))
    for stage in backbone.blocks:
        for block in stage:
            x = _inverted(graph, block, x)
    x = _silu(graph, graph.conv(backbone.conv_head, backbone.bn2, x))
    return FeatureMap(x, config.feature_channels, config.feature_size)


def _inverted(graph: Graph, block: DepthwiseSeparable | InvertedResidual, x: str) -> str:
    if isinstance(block, InvertedResidual):
        y = _silu(graph, graph.conv(block.conv_pw, block.bn1, x))
        y = _silu(graph, graph.conv(block.conv_dw, block.bn2, y))
        y = graph.conv(block.conv_pwl, block.bn3, _squeeze_excite(graph, block.se, y))
    else:
        y = _silu(graph, graph.conv(block.conv_dw, block.bn1, x))
        y = graph.conv(block.conv_pw, block.bn2, _squeeze_excite(graph, block.se, y))
    return graph.add("Add", y, x) if block.has_shortcut else y


def _squeeze_excite(graph: Graph, layer: SqueezeExcite, x: str) -> str:
    y = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    y = graph.linear(layer.conv_expand, _silu(graph, graph.linear(layer.conv_reduce, y)))
    return graph.add("Mul", x, graph.reshape(graph.add("Sigmoid", y), 0, -1, 1, 1))


def _silu(graph: Graph, x: str) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", x))


# Swin: arrays are [b, s, s, c], and [b * windows, positions, c] within attention.


def _swin(graph: Graph, backbone: Swin, x: str, config: ModelConfig) -> FeatureMap:
    embed, width = backbone.patch_embed, config.feature_channels
    x = graph.patches(embed.proj.kernel, x, swins.PATCH, wide(embed.proj.bias))
    x = graph.layer_norm(embed.norm, x)
    for layer in backbone.layers:
        if hasattr(layer, "downsample"):
            x = _halved(graph, layer.downsample, x, next(iter(layer.blocks)).side)
        for block in layer.blocks:
            x = _swin_block(graph, block, x)
    x = graph.reshape(graph.layer_norm(backbone.norm, x), 0, -1, width)
    return FeatureMap(x, width, config.feature_size, is_tokens=True)


def _halved(graph: Graph, layer: swins.Downsample, x: str, side: int) -> str:
    """Four neighbours become one position of a map of this side."""
    kernel = wide(layer.reduction.kernel)
    x = graph.reshape(x, 0, side, 2, side, 2, len(kernel) // 4)
    x = graph.reshape(graph.transpose(x, 0, 1, 3, 4, 2, 5), 0, side, side, len(kernel))
    return graph.layer_norm(layer.norm, graph.add("MatMul", x, kernel))


def _swin_block(graph: Graph, block: swins.Block, x: str) -> str:
    side, shift = block.side, block.shift
    y = _rolled(graph, x, shift, side) if shift else x
    y = _swin_attention(graph, block, _windows(graph, y, block))
    y = _joined(graph, y, block)
    y = _rolled(graph, y, side - shift, side) if shift else y
    x = graph.add("Add", x, graph.layer_norm(block.norm1, y))
    y = graph.linear(block.mlp.fc2, graph.gelu(graph.linear(block.mlp.fc1, x)))
    return graph.add("Add", x, graph.layer_norm(block.norm2, y))


def _rolled(graph: Graph, x: str, first: int, side: int) -> str:
    """Rows and columns from `first` on, then those before it."""
    for axis in (1, 2):
        parts = graph.part(x, axis, first, side), graph.part(x, axis, 0, first)
        x = graph.add("Concat", *parts, axis=axis)
    return x


def _windows(graph: Graph, x: str, block: swins.Block) -> str:
    count, window = block.side // block.window, block.window
    width = len(wide(block.norm1.scale))
    x = graph.reshape(x, 0, count, window, count, window, width)
    return graph.reshape(graph.transpose(x, 0, 1, 3, 2, 4, 5), -1, window**2, width)


def _joined(graph: Graph, x: str, block: swins.Block) -> str:
    """The inverse of `_windows`."""
    count, window, side = block.side // block.window, block.window, block.side
    width = len(wide(block.norm1.scale))
    x = graph.reshape(x, -1, count, count, window, window, width)
    return graph.reshape(graph.transpose(x, 0, 1, 3, 2, 4, 5), 0, side, side, width)


def _swin_attention(graph: Graph, block: swins.Block, x: str) -> str:
    """By cosines; these and the softmax in float32."""
    layer, positions = block.attn, block.window**2
    query, key, value = _projected(graph, layer, x)
    scale = np.exp(np.minimum(wide(layer.logit_scale), math.log(100)))
    query = graph.add("Mul", query, graph.weight(scale, np.float32))
    scores = graph.add("MatMul", graph.cast(query, "float16"), graph.cast(key, "float16"))
    scores, bias = graph.cast(scores, "float32"), np.asarray(layer.cpb_mlp(), np.float32)
    if block.shift:
        bias = bias[None] + np.asarray(block.mask(), np.float32)[:, None]
        scores = graph.reshape(scores, -1, *bias.shape)
    weights = graph.add("Softmax", graph.add("Add", scores, graph.weight(bias, np.float32)))
    if block.shift:
        weights = graph.reshape(weights, -1, layer.heads, positions, positions)
    x = graph.add("MatMul", graph.cast(weights, "float16"), value)
    return graph.linear(layer.proj, graph.reshape(graph.transpose(x, 0, 2, 1, 3), 0, 0, -1))


def _projected(graph: Graph, layer: swins.Attention, x: str) -> tuple[str, str, str]:
    """Queries and transposed keys of unit norm in float32, and values: [b, heads, n, d]."""
    kernels = np.split(wide(layer.qkv.kernel), 3, axis=1)
    query = graph.by_head(x, kernels[0], wide(layer.q_bias), layer.heads)
    key = graph.by_head(x, kernels[1], np.zeros(len(kernels[0])), layer.heads, (0, 2, 3, 1))
    query = graph.l2_normalize(graph.cast(query, "float32"), axis=3)
    key = graph.l2_normalize(graph.cast(key, "float32"), axis=2)
    return query, key, graph.by_head(x, kernels[2], wide(layer.v_bias), layer.heads)


BACKBONES: Mapping[type, Callable[[Graph, Any, str, ModelConfig], FeatureMap]] = {
    ResNet: _resnet,
    DINOv2: _dinov2,
    EfficientNet: _efficientnet,
    Swin: _swin,
}
