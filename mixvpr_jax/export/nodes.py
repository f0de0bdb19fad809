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

    def add(self, operator: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """A node of tensors by name and of arrays; its output is named after the operator."""
        output = output or f"{operator}_{len(self.proto.node)}"
        names = [each if isinstance(each, str) else self.weight(each) for each in inputs]
        self.proto.node.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def weight(self, value: Any, dtype: Any = None) -> str:
        """An array as a constant; by default in the graph's dtype, whole numbers in int64."""
        name, array = f"weight_{len(self.proto.initializer)}", np.asarray(value)
        own = np.dtype(np.int64) if array.dtype.kind in "iu" else self.dtype
        array = np.ascontiguousarray(array, dtype or own)
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
        pads, strides = [len(kernel) // 2] * 4, [conv.stride] * 2
        kernel = kernel.transpose(3, 2, 0, 1)
        return self.add("Conv", x, kernel, offset, pads=pads, strides=strides, group=conv.groups)

    def patches(self, kernel: Any, x: str, side: int, *bias: Any) -> str:
        """A Linear layer of each patch, [b, 3, h, w] → [b, h / side, w / side, c]."""
        kernel = np.asarray(kernel[...]).reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
        return self.transpose(self.add("Conv", x, kernel, *bias, strides=[side] * 2), *NHWC)

    def reshape(self, x: str, *shape: int, output: str = "") -> str:
        """To another shape, where 0 keeps a length and -1 takes what is left."""
        return self.add("Reshape", x, shape, output=output)

    def transpose(self, x: str, *axes: int, output: str = "") -> str:
        """With the axes in another order."""
        return self.add("Transpose", x, perm=axes, output=output)

    def linear(self, layer: nnx.Linear, x: str) -> str:
        """A Linear layer over the last axis."""
        assert layer.bias is not None
        return self.product(x, layer.kernel[...], layer.bias[...])

    def product(self, x: str, kernel: Any, bias: Any) -> str:
        """The same of [c, d] and [d]."""
        return self.add("Add", self.add("MatMul", x, kernel), bias)

    def attention(self, queries: str, tokens: str, layer: nnx.Linear, heads: int) -> str:
        """Multi-head attention before its last product: [b, n, c], [b, m, c] → [b, n, c].

        A layer makes queries, keys and values of c channels each. The scale of scores is in the
        query's weights, their softmax in float32.
        """
        kernels, biases = (np.split(wide(w), 3, axis=-1) for w in (layer.kernel, layer.bias))
        scale = (len(kernels[0]) // heads) ** -0.5
        query = self.by_head(queries, kernels[0] * scale, biases[0] * scale, heads)
        key = self.by_head(tokens, kernels[1], biases[1], heads, (0, 2, 3, 1))
        value = self.by_head(tokens, kernels[2], biases[2], heads)
        scores = self.cast(self.add("MatMul", query, key), "float32")
        weights = self.cast(self.add("Softmax", scores, axis=-1), "float16")
        x = self.transpose(self.add("MatMul", weights, value), 0, 2, 1, 3)
        return self.reshape(x, 0, 0, -1)

    def by_head(
        self, x: str, kernel: Any, bias: Any, heads: int, axes: tuple[int, ...] = (0, 2, 1, 3)
    ) -> str:
        """A product as [b, n, heads, d], then transposed: by default to [b, heads, n, d]."""
        x = self.reshape(self.product(x, kernel, bias), 0, 0, heads, kernel.shape[1] // heads)
        return self.transpose(x, *axes)

    def gelu(self, x: str) -> str:
        """As the nodes that runtimes fuse; opsets before 20 have no node for it."""
        erf = self.add("Erf", self.add("Div", x, 2**0.5))
        return self.add("Mul", self.add("Mul", x, self.add("Add", erf, 1.0)), 0.5)

    def part(self, x: str, axis: int, start: int, end: int) -> str:
        """A slice along an axis."""
        return self.add("Slice", x, [start], [end], [axis])

    def layer_norm(self, norm: Any, x: str) -> str:
        """LayerNorm over the last axis, whose mean and variance ONNX takes in float32."""
        weights = norm.scale[...], norm.bias[...]
        return self.add("LayerNormalization", x, *weights, axis=-1, epsilon=norm.epsilon)

    def l2_normalize(self, x: str, axis: int, output: str = "") -> str:
        """Divides by the norm over an axis, in float32."""
        squared = self.add("ReduceSum", self.add("Mul", x, x), [axis], keepdims=1)
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
