"""A model as an ONNX graph: BatchNorm folded into the convolutions, channels first inside."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from flax import nnx
from onnx import TensorProto, helper, numpy_helper

from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import ModelConfig
from mixvpr_jax.models.layers import Conv
from mixvpr_jax.models.mixvpr import MixVPR
from mixvpr_jax.models.normalization import BatchNorm, folded
from mixvpr_jax.models.pooling import ConvAP, CosPlace, GeMPool, cell_weights
from mixvpr_jax.models.resnet import Block, ResNet
from mixvpr_jax.models.vpr import VPRModel, is_training
from mixvpr_jax.preprocess import IMAGENET_MEAN, IMAGENET_STD

Precision = Literal["float32", "float16"]
OPSETS = range(17, 24)  # LayerNormalization came with 17
ANTIALIAS = 18  # with which Resize can smooth
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9}  # of onnx when an opset was new; 10 for later ones


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
    backbone, plugin = model.backbone, model.config.plugin
    if plugin is not None or not isinstance(backbone, ResNet):
        found = model.config.arch if plugin is None else f"the plug-in {plugin}"
        raise InputError(
            f"ONNX: expected a ResNet and an aggregator of mixvpr-jax, found {found}; mixvpr "
            "export writes it as FILE.stablehlo"
        )
    first = ANTIALIAS if preprocess else OPSETS[0]
    if opset not in range(first, OPSETS[-1] + 1):
        raise InputError(f"opset: expected {first} to {OPSETS[-1]}, found {opset}")
    if is_training(model):
        raise InputError("model: expected evaluation mode, found training mode; call model.eval()")
    config, graph = model.config, _Graph(np.dtype(dtype))
    x = _resized(graph, config) if preprocess else graph.add("Transpose", "images", perm=NCHW)
    x = _backbone(graph, backbone, graph.cast(x, dtype))
    output = "features" if config.aggregator is None else "descriptors"
    if config.aggregator is None:
        graph.add("Transpose", graph.cast(x, "float32"), perm=NHWC, output=output)
        shape = ["batch", *config.feature_size, config.feature_channels]
    else:
        x = graph.cast(_aggregator(graph, model, x), "float32")
        if config.projection is not None:
            x = graph.linear(model.projection, graph.l2_normalize(x, axis=1), np.float32)
        graph.l2_normalize(x, axis=1, output=output)
        shape = ["batch", config.descriptor_dim]
    if preprocess:
        images = helper.make_tensor_value_info(
            "images", TensorProto.UINT8, ["batch", "height", "width", 3]
        )
    else:
        images = helper.make_tensor_value_info(
            "images", TensorProto.FLOAT, ["batch", *config.image_size, 3]
        )
    found = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "mixvpr_jax", [images], [found], graph.weights),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSIONS.get(opset, 10),
        producer_name="mixvpr_jax",
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


NCHW, NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


class _Graph:
    """Nodes and weights; each node has one output, by whose name others take it."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def weight(self, value: Any, dtype: Any = None) -> str:
        """An array as a constant, by default in the graph's dtype."""
        name = f"weight_{len(self.weights)}"
        array = np.ascontiguousarray(value, dtype or self.dtype)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def cast(self, x: str, dtype: str) -> str:
        if self.dtype == np.float32:
            return x
        kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.FLOAT16
        return self.add("Cast", x, to=kind)

    def conv(self, conv: Conv, norm: BatchNorm, x: str) -> str:
        """A convolution that holds its BatchNorm."""
        kernel, offset = folded(conv, norm)
        kernel = kernel.transpose(3, 2, 0, 1)
        padding = kernel.shape[2] // 2
        return self.add(
            "Conv",
            x,
            self.weight(kernel),
            self.weight(offset),
            kernel_shape=kernel.shape[2:],
            pads=[padding] * 4,
            strides=[conv.stride] * 2,
            group=conv.groups,
        )

    def linear(self, layer: nnx.Linear, x: str, dtype: Any = None) -> str:
        """A Linear layer over the last axis, by default in the graph's dtype."""
        assert layer.bias is not None
        product = self.add("MatMul", x, self.weight(layer.kernel[...], dtype))
        return self.add("Add", product, self.weight(layer.bias[...], dtype))

    def l2_normalize(self, x: str, axis: int, output: str = "") -> str:
        """Divides by the norm over an axis, in float32."""
        axes = self.weight([axis], np.int64)
        squared = self.add("ReduceSum", self.add("Mul", x, x), axes, keepdims=1)
        least = self.weight(1e-24, np.float32)
        return self.add("Div", x, self.add("Sqrt", self.add("Max", squared, least)), output=output)


def _resized(graph: _Graph, config: ModelConfig) -> str:
    """uint8 [batch, height, width, 3] of any size → normalised [batch, 3, h, w]."""
    x = graph.add("Cast", graph.add("Transpose", "images", perm=NCHW), to=TensorProto.FLOAT)
    size = graph.weight(config.image_size, np.int64)
    mode = "cubic" if config.interpolation == "bicubic" else "linear"
    options: dict[str, Any] = {"cubic_coeff_a": -0.5} if mode == "cubic" else {}  # as Pillow's
    x = graph.add(
        "Resize", x, "", "", size, mode=mode, antialias=1, axes=[2, 3],
        coordinate_transformation_mode="half_pixel", **options,
    )  # fmt: skip
    low, high = (graph.weight(value, np.float32) for value in (0, 255))
    x = graph.add("Clip", graph.add("Round", x), low, high)
    mean, std = (value.reshape(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    x = graph.add("Sub", graph.add("Div", x, high), graph.weight(mean, np.float32))
    return graph.add("Div", x, graph.weight(std, np.float32))


def _backbone(graph: _Graph, backbone: ResNet, x: str) -> str:
    x = graph.add("Relu", graph.conv(backbone.conv1, backbone.bn1, x))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    for stage in range(1, backbone.num_stages + 1):
        blocks = getattr(backbone, f"layer{stage}")
        for index in range(blocks.length):
            x = _block(graph, getattr(blocks, str(index)), x)
    return x


def _block(graph: _Graph, block: Block, x: str) -> str:
    y = graph.add("Relu", graph.conv(block.conv1, block.bn1, x))
    y = graph.conv(block.conv2, block.bn2, y)
    if block.bottleneck:
        y = graph.conv(block.conv3, block.bn3, graph.add("Relu", y))
    if hasattr(block, "downsample"):
        x = graph.conv(block.downsample.conv, block.downsample.bn, x)
    return graph.add("Relu", graph.add("Add", y, x))


def _aggregator(graph: _Graph, model: VPRModel, x: str) -> str:
    """Feature map [batch, c, h, w] → descriptors [batch, d] before they are normalised."""
    aggregator = model.aggregator
    if isinstance(aggregator, MixVPR):
        return _mixvpr(graph, aggregator, x, model.config.feature_channels)
    x = graph.cast(x, "float32")
    if isinstance(aggregator, ConvAP):
        return _convap(graph, aggregator, x, model.config.feature_size)
    if isinstance(aggregator, CosPlace):
        pooled = _gem(graph, aggregator.gem, graph.l2_normalize(x, axis=1))
        return graph.linear(aggregator.fc, graph.cast(pooled, "float16"))
    assert isinstance(aggregator, GeMPool)  # `to_onnx` refuses plug-ins
    return graph.cast(_gem(graph, aggregator, x), "float16")


def _mixvpr(graph: _Graph, aggregator: MixVPR, x: str, channels: int) -> str:
    x = graph.add("Reshape", x, graph.weight([0, channels, -1], np.int64))
    for index in range(aggregator.mix.length):
        mixer = getattr(aggregator.mix, str(index))
        scale, bias = (graph.weight(value[...]) for value in (mixer.norm.scale, mixer.norm.bias))
        y = graph.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-5)
        y = graph.add("Relu", graph.linear(mixer.expand, y))
        x = graph.add("Add", x, graph.linear(mixer.project, y))
    # The projections commute, but for their biases; that of positions leaves less to compute.
    rows, over_channels = aggregator.row_proj, aggregator.channel_proj
    assert rows.bias is not None and over_channels.bias is not None
    kernel, channel_bias, row_bias = (
        np.asarray(value[...], np.float64) for value in (rows.kernel, over_channels.bias, rows.bias)
    )
    x = graph.add("MatMul", x, graph.weight(kernel))
    x = graph.add("MatMul", graph.weight(np.asarray(over_channels.kernel[...]).T), x)
    x = graph.add("Add", x, graph.weight(channel_bias[:, None] * kernel.sum(0) + row_bias))
    return graph.add("Reshape", x, graph.weight([0, -1], np.int64))


def _convap(graph: _Graph, aggregator: ConvAP, x: str, size: tuple[int, int]) -> str:
    pool = aggregator.channel_pool
    assert pool.bias is not None
    kernel = np.asarray(pool.kernel[...]).T[..., None, None]
    weights = graph.weight(kernel), graph.weight(pool.bias[...])
    x = graph.add("Conv", graph.cast(x, "float16"), *weights)
    rows, columns = (cell_weights(*each) for each in zip(size, aggregator.cells, strict=True))
    x = graph.add("MatMul", graph.weight(rows), graph.add("MatMul", x, graph.weight(columns.T)))
    return graph.add("Reshape", x, graph.weight([0, -1], np.int64))


def _gem(graph: _Graph, gem: GeMPool, x: str) -> str:
    """Generalised mean in float32, [batch, c]."""
    p = np.asarray(gem.p[...], np.float32)
    x = graph.add("Max", x, graph.weight(gem.epsilon, np.float32))
    x = graph.add("GlobalAveragePool", graph.add("Pow", x, graph.weight(p, np.float32)))
    x = graph.add("Pow", x, graph.weight(1 / p, np.float32))
    return graph.add("Flatten", x)
