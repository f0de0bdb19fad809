"""Backbones as nodes: normalised images [b, 3, h, w] → the tensor of a feature map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from mixvpr_jax.export.nodes import FeatureMap, Graph, wide
from mixvpr_jax.export.swin import swin
from mixvpr_jax.models import dinov2 as vits
from mixvpr_jax.models import resnet as resnets
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


BACKBONES: Mapping[type, Callable[[Graph, Any, str, ModelConfig], FeatureMap]] = {
    ResNet: _resnet,
    DINOv2: _dinov2,
    EfficientNet: _efficientnet,
    Swin: swin,
}
