"""Aggregators as nodes: a feature map → descriptors [b, d] before they are normalised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mixvpr_jax.export.nodes import FeatureMap, Graph, wide
from mixvpr_jax.models.boq import BoQ, Encoder
from mixvpr_jax.models.mixvpr import MixVPR
from mixvpr_jax.models.pooling import ConvAP, CosPlace, GeM, GeMPool, cell_weights
from mixvpr_jax.models.salad import ITERATIONS, SALAD, TwoLayers
from mixvpr_jax.models.transformer import MultiHeadAttention


def _mixvpr(graph: Graph, aggregator: MixVPR, features: FeatureMap) -> str:
    x = features.channels_first(graph)
    x = graph.reshape(x, 0, features.channels, -1)
    for mixer in aggregator.mix:
        y = graph.layer_norm(mixer.norm, x)
        y = graph.add("Relu", graph.linear(mixer.expand, y))
        x = graph.add("Add", x, graph.linear(mixer.project, y))
    # The projections commute, but for their biases; that of positions leaves less to compute.
    rows, over_channels = aggregator.row_proj, aggregator.channel_proj
    kernel, channel_bias = wide(rows.kernel), wide(over_channels.bias)
    x = graph.add("MatMul", wide(over_channels.kernel).T, graph.add("MatMul", x, kernel))
    x = graph.add("Add", x, channel_bias[:, None] * kernel.sum(0) + wide(rows.bias))
    return graph.reshape(x, 0, -1)


def _convap(graph: Graph, aggregator: ConvAP, features: FeatureMap) -> str:
    x = graph.cast(features.channels_first(graph), "float32")
    pool = aggregator.channel_pool
    kernel = wide(pool.kernel).T[..., None, None]
    x = graph.add("Conv", graph.cast(x, "float16"), kernel, wide(pool.bias))
    sizes = zip(features.size, aggregator.cells, strict=True)
    rows, columns = (cell_weights(*each) for each in sizes)
    x = graph.add("MatMul", rows, graph.add("MatMul", x, columns.T))
    return graph.reshape(x, 0, -1)


def _cosplace(graph: Graph, aggregator: CosPlace, features: FeatureMap) -> str:
    x = graph.cast(features.channels_first(graph), "float32")
    pooled = _pooled(graph, aggregator.gem, graph.l2_normalize(x, axis=1))
    return graph.linear(aggregator.fc, graph.cast(pooled, "float16"))


def _gem(graph: Graph, aggregator: GeM, features: FeatureMap) -> str:
    x = graph.cast(features.channels_first(graph), "float32")
    return graph.cast(_pooled(graph, aggregator, x), "float16")


def _pooled(graph: Graph, gem: GeMPool, x: str) -> str:
    """Generalised mean in float32, [b, c]."""
    p = np.asarray(gem.p[...], np.float32)
    x = graph.add("Max", x, graph.weight(gem.epsilon, np.float32))
    x = graph.add("GlobalAveragePool", graph.add("Pow", x, graph.weight(p, np.float32)))
    x = graph.add("Pow", x, graph.weight(1 / p, np.float32))
    return graph.add("Flatten", x)


def _salad(graph: Graph, aggregator: SALAD, features: FeatureMap) -> str:
    assert features.token is not None
    scores = graph.cast(_two_layers(graph, aggregator.score, features.name), "float32")
    shares = _transport(graph, scores, aggregator, math.prod(features.size))
    x = graph.cast(_two_layers(graph, aggregator.cluster_features, features.name), "float32")
    clusters = graph.add("MatMul", graph.transpose(x, 0, 2, 1), shares)
    clusters = graph.reshape(graph.l2_normalize(clusters, axis=1), 0, -1)
    token = graph.cast(_two_layers(graph, aggregator.token_features, features.token), "float32")
    return graph.add("Concat", graph.l2_normalize(token, axis=1), clusters, axis=1)


def _transport(graph: Graph, scores: str, aggregator: SALAD, positions: int) -> str:
    """Shares of positions in clusters, [b, n, m], from scores in float32."""
    clusters = aggregator.score.project.out_features
    dust = graph.weight(np.asarray(aggregator.dust_bin[...]).reshape(()), np.float32)
    x = graph.add("Pad", scores, [0, 0, 0, 0, 0, 1], dust)
    takes = graph.weight(np.log([1.0] * clusters + [positions - clusters]), np.float32)
    for iteration in range(ITERATIONS):
        x = graph.add("Add", graph.add("LogSoftmax", x, axis=1), takes)
        x = graph.add("Softmax" if iteration == ITERATIONS - 1 else "LogSoftmax", x, axis=2)
    return graph.part(x, 2, 0, clusters)


def _two_layers(graph: Graph, mlp: TwoLayers, x: str) -> str:
    return graph.linear(mlp.project, graph.add("Relu", graph.linear(mlp.expand, x)))


def _boq(graph: Graph, aggregator: BoQ, features: FeatureMap) -> str:
    conv = aggregator.proj_c
    kernel = wide(conv.kernel).transpose(3, 2, 0, 1)
    x = graph.add("Conv", features.channels_first(graph), kernel, wide(conv.bias), pads=[1] * 4)
    x = graph.transpose(graph.reshape(x, 0, conv.out_features, -1), 0, 2, 1)
    x = graph.layer_norm(aggregator.norm_input, x)
    read = []
    for block in aggregator.boqs:
        x = _encoder(graph, block.encoder, x)
        queries = block.queries[...]
        queries = graph.weight(block.norm_q(queries + block.self_attn(queries, queries)))
        found = _attention(graph, block.cross_attn, queries, x)
        read.append(graph.layer_norm(block.norm_out, found))
    x = graph.transpose(graph.add("Concat", *read, axis=1), 0, 2, 1)
    return graph.reshape(graph.linear(aggregator.fc, x), 0, -1)


def _encoder(graph: Graph, encoder: Encoder, x: str) -> str:
    x = graph.add("Add", x, _attention(graph, encoder.self_attn, x, x))
    x = graph.layer_norm(encoder.norm1, x)
    y = graph.linear(encoder.linear2, graph.add("Relu", graph.linear(encoder.linear1, x)))
    return graph.layer_norm(encoder.norm2, graph.add("Add", x, y))


def _attention(graph: Graph, layer: MultiHeadAttention, queries: str, tokens: str) -> str:
    return graph.linear(
        layer.out_proj, graph.attention(queries, tokens, layer.in_proj, layer.heads)
    )


AGGREGATORS: Mapping[type, Callable[[Graph, Any, FeatureMap], str]] = {
    MixVPR: _mixvpr,
    ConvAP: _convap,
    CosPlace: _cosplace,
    GeM: _gem,
    SALAD: _salad,
    BoQ: _boq,
}
