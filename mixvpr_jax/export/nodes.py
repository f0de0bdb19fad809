"""What graphs are written of: nodes, weights, feature maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from onnx import GraphProto, TensorProto, helper, numpy_helper

from mixvpr_jax.models.layers import Conv
from mixvpr_jax.models.normalization import BatchNorm, folded

NCHW, NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


class Graph:
    """Writes nodes and weights; each node has one output, by whose name others take it.

    Attributes:
        dtype: Of weights and products.
    """

    def __init__(self, proto: GraphProto, dtype: np.dtype) -> None:
        self.proto, self.dtype = proto, dtype

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node; by default its output is named after the operator."""
        output = output or f"{operator}_{len(self.proto.node)}"
        node = helper.make_node(operator, list(inputs), [output], **attributes)
        self.proto.node.append(node)
        return output

    def weight(self, value: Any, dtype: Any = None) -> str:
        """An array as a constant, by default in the graph's dtype."""
        name = f"weight_{len(self.proto.initializer)}"
        array = np.ascontiguousarray(value, dtype or self.dtype)
        self.proto.initializer.append(numpy_helper.from_array(array, name))
        return name

    def cast(self, x: str, dtype: str) -> str:
        """Between float32 and a half-precision graph's float16; nothing in float32 graphs."""
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

    def reshape(self, x: str, *shape: int, output: str = "") -> str:
        """To another shape, where 0 keeps a length and -1 takes what is left."""
        return self.add("Reshape", x, self.weight(shape, np.int64), output=output)

    def transpose(self, x: str, *axes: int, output: str = "") -> str:
        """With the axes in another order."""
        return self.add("Transpose", x, perm=axes, output=output)

    def linear(self, layer: nnx.Linear, x: str, dtype: Any = None) -> str:
        """A Linear layer over the last axis, by default in the graph's dtype."""
        assert layer.bias is not None
        return self.product(x, layer.kernel[...], layer.bias[...], dtype)

    def product(self, x: str, kernel: Any, bias: Any, dtype: Any = None) -> str:
        """The same of arrays [c, d] and [d]."""
        product = self.add("MatMul", x, self.weight(kernel, dtype))
        return self.add("Add", product, self.weight(bias, dtype))

    def attention(self, queries: str, tokens: str, layer: nnx.Linear, heads: int) -> str:
        """Multi-head attention before its last product: [b, n, c], [b, m, c] → [b, n, c].

        A layer makes queries, keys and values of c channels each. The scale of scores is in the
        query's weights, their softmax in float32.
        """
        kernels, biases = (np.split(wide(w), 3, axis=-1) for w in (layer.kernel, layer.bias))
        depth = len(kernels[0]) // heads
        shape, scale = self.weight([0, 0, heads, depth], np.int64), depth**-0.5
        query = self.by_head(queries, kernels[0] * scale, biases[0] * scale, shape)
        key = self.by_head(tokens, kernels[1], biases[1], shape, (0, 2, 3, 1))
        value = self.by_head(tokens, kernels[2], biases[2], shape)
        scores = self.cast(self.add("MatMul", query, key), "float32")
        weights = self.cast(self.add("Softmax", scores, axis=-1), "float16")
        x = self.transpose(self.add("MatMul", weights, value), 0, 2, 1, 3)
        return self.reshape(x, 0, 0, -1)

    def by_head(
        self, x: str, kernel: Any, bias: Any, shape: str, axes: tuple[int, ...] = (0, 2, 1, 3)
    ) -> str:
        """A product as [b, n, heads, d], then transposed: by default to [b, heads, n, d]."""
        return self.transpose(self.add("Reshape", self.product(x, kernel, bias), shape), *axes)

    def gelu(self, x: str) -> str:
        """As the nodes that runtimes fuse; opsets before 20 have no node for it."""
        erf = self.add("Erf", self.add("Div", x, self.weight(2**0.5)))
        x = self.add("Mul", x, self.add("Add", erf, self.weight(1)))
        return self.add("Mul", x, self.weight(0.5))

    def part(self, x: str, axis: int, start: int, end: int) -> str:
        """A slice along an axis."""
        limits = (self.weight([limit], np.int64) for limit in (start, end, axis))
        return self.add("Slice", x, *limits)

    def layer_norm(self, norm: Any, x: str) -> str:
        """LayerNorm over the last axis, whose mean and variance ONNX takes in float32."""
        scale, bias = (self.weight(value[...]) for value in (norm.scale, norm.bias))
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=norm.epsilon)

    def l2_normalize(self, x: str, axis: int, output: str = "") -> str:
        """Divides by the norm over an axis, in float32."""
        axes = self.weight([axis], np.int64)
        squared = self.add("ReduceSum", self.add("Mul", x, x), axes, keepdims=1)
        least = self.weight(1e-24, np.float32)
        return self.add("Div", x, self.add("Sqrt", self.add("Max", squared, least)), output=output)


@dataclass(frozen=True)
class FeatureMap:
    """A backbone's output, which an aggregator takes in the layout that it computes in.

    Attributes:
        name: Of the tensor: [b, c, h, w], or [b, h * w, c] of tokens.
        size: h and w.
        is_tokens: Whether channels are last.
        token: The class token [b, c], where the aggregator takes it.
    """

    name: str
    channels: int
    size: tuple[int, int]
    is_tokens: bool = False
    token: str | None = None

    def channels_first(self, graph: Graph) -> str:
        """[b, c, h, w]."""
        if not self.is_tokens:
            return self.name
        return graph.reshape(graph.transpose(self.name, 0, 2, 1), 0, self.channels, *self.size)

    def channels_last(self, graph: Graph, output: str) -> str:
        """[b, h, w, c] in float32, by the name of a graph's output."""
        x = graph.cast(self.name, "float32")
        if not self.is_tokens:
            return graph.transpose(x, *NHWC, output=output)
        return graph.reshape(x, 0, *self.size, self.channels, output=output)


def wide(value: Any) -> np.ndarray:
    """A parameter in float64, in which layers are folded into others."""
    return np.asarray(value[...], np.float64)
