"""A model as an ONNX graph: BatchNorm folded into the convolutions, channels first inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from flax import nnx
from onnx import TensorProto, helper

from mixvpr_jax.errors import InputError
from mixvpr_jax.export.aggregators import AGGREGATORS
from mixvpr_jax.export.backbones import BACKBONES
from mixvpr_jax.export.nodes import NCHW, Graph, wide
from mixvpr_jax.models.config import Interpolation, ModelConfig
from mixvpr_jax.models.vpr import VPRModel, require_evaluation
from mixvpr_jax.preprocess import IMAGENET_MEAN, IMAGENET_STD

Precision = Literal["float32", "float16"]
OPSETS = range(17, 24)  # LayerNormalization came with 17
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9}  # of onnx when an opset was new; 10 for later ones
# Pillow's, of a distance in pixels: sums of polynomials, which are 0 from the first number on.
FILTERS: Mapping[Interpolation, Mapping[float, tuple[float, ...]]] = {
    "bilinear": {1.0: (-1.0, 1.0)},
    "bicubic": {2.0: (-0.5, 2.5, -4.0, 2.0), 1.0: (2.0, -5.0, 4.0, -1.0)},
}
LARGEST = 2_000_000_000  # bytes of weights in a file; a protocol buffer holds 2 GiB


def to_onnx(
    model: VPRModel, *, dtype: Precision = "float32", opset: int = 17, preprocess: bool = False
) -> onnx.ModelProto:
    """The graph of a model, with its weights.

    Args:
        model: In evaluation mode.
        dtype: Of weights and products. Descriptors are float32.
        opset: The version of ONNX's operators.
        preprocess: Whether the graph resizes and normalises: its input is then uint8
            [batch, height, width, 3] of any size, otherwise normalised float32 of the model's.

    Returns:
        A graph from "images" to "descriptors" [batch, d] of unit norm, or to the "features"
        [batch, h, w, c] of a bare backbone. The batch is of any size.

    Raises:
        InputError: An opset that lacks the operators, a plug-in, or a model in training mode.
    """
    require_evaluation(model)
    config = model.config
    _check_known("backbone", BACKBONES, model.backbone, config.arch)
    if config.aggregator is not None:
        _check_known("aggregator", AGGREGATORS, model.aggregator, config.aggregator_name)
    if opset not in OPSETS:
        raise InputError(f"opset: expected {OPSETS[0]} to {OPSETS[-1]}, found {opset}")
    proto = _empty(config, opset, preprocess=preprocess)
    graph, output = Graph(proto.graph, np.dtype(dtype)), proto.graph.output[0].name
    if preprocess:
        x = _resized(Graph(proto.graph, np.dtype(np.float32)), config)
    else:
        x = graph.transpose("images", *NCHW)
    features = BACKBONES[type(model.backbone)](graph, model.backbone, graph.cast(x, dtype), config)
    if config.aggregator is None:
        features.channels_last(graph, output)
        return proto
    aggregate = AGGREGATORS[type(model.aggregator)]
    x = graph.cast(aggregate(graph, model.aggregator, features), "float32")
    if config.projection is not None:  # whose sums are float32
        layer = model.projection
        kernel, bias = (graph.weight(wide(w), np.float32) for w in (layer.kernel, layer.bias))
        x = graph.product(graph.l2_normalize(x, axis=1), kernel, bias)
    graph.l2_normalize(x, axis=1, output=output)
    return proto


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Writes a graph to FILE.onnx; the weights of a large one to FILE.onnx.data, out of `proto`."""
    if sum(len(weight.raw_data) for weight in proto.graph.initializer) <= LARGEST:
        path.write_bytes(proto.SerializeToString())
    else:
        data = path.with_name(f"{path.name}.data")
        onnx.save_model(proto, path, save_as_external_data=True, location=data.name)
        data.chmod(path.stat().st_mode)  # onnx makes it the user's alone


def _check_known(
    what: str, known: Mapping[type, Any], module: nnx.Module, name: str | None
) -> None:
    if type(module) not in known:
        names = " or ".join(kind.__name__ for kind in known)
        found = f"the plug-in {name}" if name and ":" in name else name
        raise InputError(
            f"ONNX: expected {what} {names}, found {found}; mixvpr export writes it as "
            "FILE.stablehlo"
        )


def _empty(config: ModelConfig, opset: int, *, preprocess: bool) -> onnx.ModelProto:
    """A graph that has input and output alone."""
    kind, size = TensorProto.FLOAT, list(config.image_size)
    if preprocess:
        kind, size = TensorProto.UINT8, ["height", "width"]
    images = helper.make_tensor_value_info("images", kind, ["batch", *size, 3])
    name, shape = "descriptors", [config.descriptor_dim]
    if config.aggregator is None:
        name, shape = "features", [*config.feature_size, config.feature_channels]
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
    return helper.make_model(
        helper.make_graph([], "mixvpr_jax", [images], [output]),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSIONS.get(opset, 10),
        producer_name="mixvpr_jax",
    )


def _resized(graph: Graph, config: ModelConfig) -> str:
    """uint8 [batch, height, width, 3] of any size → normalised [batch, 3, h, w].

    Products resize as Pillow does: OpenVINO and TensorRT know no Resize that smooths, and OpenVINO
    does not say so.
    """
    x = graph.add("Cast", graph.transpose("images", *NCHW), to=TensorProto.FLOAT)
    rows, columns = (_shares(graph, axis, config) for axis in (0, 1))
    x = _rounded(graph, graph.add("MatMul", x, graph.transpose(columns, 1, 0)))
    x = _rounded(graph, graph.add("MatMul", rows, x))
    mean, std = (value.reshape(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    return graph.add("Div", graph.add("Sub", graph.add("Div", x, 255.0), mean), std)


def _shares(graph: Graph, axis: int, config: ModelConfig) -> str:
    """What each of an axis' n pixels adds to each of the model's m, [m, n]."""
    size = config.image_size[axis]
    length = graph.add("Gather", graph.add("Shape", "images"), 1 + axis)
    # In units of which centres of pixels are whole numbers.
    theirs = graph.add("Mul", graph.add("Range", 1, graph.add("Mul", length, 2), 2), size)
    ours = graph.add("Mul", 2 * np.arange(size)[:, None] + 1, length)
    apart, pixel = graph.add("Abs", graph.add("Sub", theirs, ours)), graph.add("Max", length, size)
    apart, pixel = (graph.add("Cast", each, to=TensorProto.FLOAT) for each in (apart, pixel))
    x = graph.add("Div", apart, graph.add("Mul", pixel, 2.0))
    parts: list[Any] = []
    for end, (first, *others) in FILTERS[config.interpolation].items():
        part, nearer = first, graph.add("Min", x, end)
        for each in others:
            part = graph.add("Add", graph.add("Mul", part, nearer), each)
        parts.append(part)
    x = graph.add("Sum", *parts)
    return graph.add("Div", x, graph.add("ReduceSum", x, [1]))


def _rounded(graph: Graph, x: str) -> str:
    return graph.add("Clip", graph.add("Floor", graph.add("Add", x, 0.5)), 0.0, 255.0)
