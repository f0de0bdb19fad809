"""Swin V2 as nodes: arrays [b, s, s, c], and [b * windows, positions, c] within attention."""

from __future__ import annotations

import math

import numpy as np

from mixvpr_jax.export.nodes import FeatureMap, Graph, wide
from mixvpr_jax.models.config import ModelConfig
from mixvpr_jax.models.swin import PATCH, Attention, Block, Downsample, Swin


def swin(graph: Graph, backbone: Swin, x: str, config: ModelConfig) -> FeatureMap:
    """Normalised images [b, 3, s, s] → the tensor of a feature map."""
    embed, width = backbone.patch_embed, config.feature_channels
    x = graph.patches(embed.proj.kernel, x, PATCH, wide(embed.proj.bias))
    x = graph.layer_norm(embed.norm, x)
    for layer in backbone.layers:
        if hasattr(layer, "downsample"):
            x = _halved(graph, layer.downsample, x, next(iter(layer.blocks)).side)
        for block in layer.blocks:
            x = _block(graph, block, x)
    x = graph.reshape(graph.layer_norm(backbone.norm, x), 0, -1, width)
    return FeatureMap(x, width, config.feature_size, is_tokens=True)


def _halved(graph: Graph, layer: Downsample, x: str, side: int) -> str:
    """Four neighbours become one position of a map of this side."""
    kernel = wide(layer.reduction.kernel)
    x = graph.reshape(x, 0, side, 2, side, 2, len(kernel) // 4)
    x = graph.reshape(graph.transpose(x, 0, 1, 3, 4, 2, 5), 0, side, side, len(kernel))
    return graph.layer_norm(layer.norm, graph.add("MatMul", x, kernel))


def _block(graph: Graph, block: Block, x: str) -> str:
    side, shift = block.side, block.shift
    y = _rolled(graph, x, shift, side) if shift else x
    y = _attention(graph, block, _windows(graph, y, block))
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


def _windows(graph: Graph, x: str, block: Block) -> str:
    count, window = block.side // block.window, block.window
    width = len(wide(block.norm1.scale))
    x = graph.reshape(x, 0, count, window, count, window, width)
    return graph.reshape(graph.transpose(x, 0, 1, 3, 2, 4, 5), -1, window**2, width)


def _joined(graph: Graph, x: str, block: Block) -> str:
    """The inverse of `_windows`."""
    count, window, side = block.side // block.window, block.window, block.side
    width = len(wide(block.norm1.scale))
    x = graph.reshape(x, -1, count, count, window, window, width)
    return graph.reshape(graph.transpose(x, 0, 1, 3, 2, 4, 5), 0, side, side, width)


def _attention(graph: Graph, block: Block, x: str) -> str:
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


def _projected(graph: Graph, layer: Attention, x: str) -> tuple[str, str, str]:
    """Queries and transposed keys of unit norm in float32, and values: [b, heads, n, d]."""
    kernels = np.split(wide(layer.qkv.kernel), 3, axis=1)
    query = graph.by_head(x, kernels[0], wide(layer.q_bias), layer.heads)
    key = graph.by_head(x, kernels[1], np.zeros(len(kernels[0])), layer.heads, (0, 2, 3, 1))
    query = graph.l2_normalize(graph.cast(query, "float32"), axis=3)
    key = graph.l2_normalize(graph.cast(key, "float32"), axis=2)
    return query, key, graph.by_head(x, kernels[2], wide(layer.v_bias), layer.heads)
