"""Layers with PyTorch's conventions: Linear, convolution, sequence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mixvpr_jax.models.config import Dtype

# torchvision's ResNet: kaiming_normal_(mode="fan_out", nonlinearity="relu").
he_normal_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's trunc_normal_(std=0.02), which it cuts at -2 and 2: a hundred deviations away.
small_normal = nnx.initializers.normal(0.02)
_WINOGRAD = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # a kernel's


def param_dtype(dtype: str) -> Dtype:
    """Dtype of parameters and exact sums: float64 for a float64 model, otherwise float32."""
    return "float64" if dtype == "float64" else "float32"


def array_dtype(dtype: str) -> str:
    """Dtype of activations, and of weights as they are multiplied."""
    return "float32" if dtype == "tensorfloat32" else dtype


def precision(dtype: str) -> lax.Precision:
    """Full float32 products, which GPUs and TPUs round to TF32 or bfloat16 by default."""
    chosen = {"bfloat16": lax.Precision.DEFAULT, "tensorfloat32": lax.Precision.HIGH}
    return chosen.get(dtype, lax.Precision.HIGHEST)


def linear(
    in_features: int, out_features: int, *, dtype: Dtype, rngs: nnx.Rngs, **options: Any
) -> nnx.Linear:
    """A Linear layer with the initialisation of torch.nn.Linear."""
    return nnx.Linear(in_features, out_features, **like_torch(in_features, dtype, rngs) | options)


def small_linear(
    in_features: int, out_features: int, *, dtype: Dtype, rngs: nnx.Rngs, use_bias: bool = True
) -> nnx.Linear:
    """A Linear layer initialised as in most authors' transformers and mixers."""
    start = {"kernel_init": small_normal, "bias_init": nnx.initializers.zeros_init()}
    return linear(in_features, out_features, dtype=dtype, rngs=rngs, use_bias=use_bias, **start)


def like_torch(fan_in: int, dtype: Dtype, rngs: nnx.Rngs) -> dict[str, Any]:
    """Options of Flax's layers that compute in a dtype and begin as torch.nn.Linear and Conv2d."""
    bound = fan_in**-0.5

    def within(key: Array, shape: tuple[int, ...], kind: str) -> Array:
        return jax.random.uniform(key, shape, kind, -bound, bound)

    return {
        "kernel_init": nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        "bias_init": within,
        "dtype": array_dtype(dtype),
        "param_dtype": param_dtype(dtype),
        "precision": precision(dtype),
        "rngs": rngs,
    }


def cast_in_place(module: nnx.Module) -> None:
    """Keeps the weights of all Linear layers in the dtype of their products.

    Otherwise a program rounds them in each call.
    """
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.Linear):
            layer.kernel = nnx.Param(layer.kernel[...].astype(layer.dtype))
            if layer.bias is not None:
                layer.bias = nnx.Param(layer.bias[...].astype(layer.dtype))


class Conv(nnx.Module):
    """NHWC convolution without bias, padded by (size - 1) / 2 on every side.

    Unlike "SAME", this is symmetric for every stride. 1x1 convolutions are matrix products, 2 to 5
    times as fast as XLA's convolution on CPUs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (size, size, in_channels // groups, out_channels)
        self.kernel = nnx.Param(he_normal_fan_out(rngs.params(), shape, param_dtype(dtype)))
        self.stride = stride
        self.groups = groups
        self.dtype: Dtype = dtype
        self.platform: str | None = None  # of a training step, where other programs are fast

    def set_view(self, platform: str | None = None) -> None:
        """Sets the attribute of a view; called by `flax.nnx.view`."""
        if platform is not None:
            self.platform = platform

    def __call__(
        self, x: Float[Array, "b h w c"], kernel: Float[Array, "s s c2 c3"] | None = None
    ) -> Float[Array, "b h2 w2 c3"]:
        """Convolves with the layer's kernel, or with another one in its place."""
        kernel = (self.kernel[...] if kernel is None else kernel).astype(array_dtype(self.dtype))
        size = kernel.shape[0]
        if size == 1:
            x = x[:, :: self.stride, :: self.stride]
            if self.platform == "tpu":  # for products XLA copies maps: a tenth of the step's bytes
                return _convolution(x, kernel, stride=1, groups=1, dtype=self.dtype)
            product = _product_on_cpu if self.platform == "cpu" else jnp.matmul
            return product(x, kernel[0, 0], precision=precision(self.dtype))
        if self.platform == "cpu" and self.groups == 1:
            return _convolution_on_cpu(x, kernel, self.stride, self.dtype)
        by_xla = partial(_convolution, stride=self.stride, groups=self.groups, dtype=self.dtype)
        if self.groups == x.shape[-1] == kernel.shape[-1]:
            # Keeps x for the backward pass, not what it is cut into.
            by_shifts = jax.checkpoint(partial(sum_of_shifts, stride=self.stride))
            return lax.platform_dependent(x, kernel, cpu=by_shifts, default=by_xla)
        return by_xla(x, kernel)


def _convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "s s c2 c3"],
    *,
    stride: int,
    groups: int,
    dtype: Dtype,
) -> Float[Array, "b h2 w2 c3"]:
    size = kernel.shape[0]
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision(dtype),
    )


@partial(jax.jit, static_argnames="stride")  # one program, also where the model runs eagerly
def sum_of_shifts(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s 1 c"], *, stride: int
) -> Float[Array, "b h2 w2 c"]:
    """A depthwise convolution as products of shifted images, summed in float32 or wider.

    XLA's own takes 10 to 30 times as long on CPUs, and 3 to 11 times as long for its gradient.
    """
    size, dtype = kernel.shape[0], param_dtype(x.dtype.name)
    edge = (size // 2, size // 2)
    height, width = (stride * ((length - 1) // stride) + 1 for length in x.shape[1:3])
    x, kernel = jnp.pad(x, ((0, 0), edge, edge, (0, 0))), kernel.astype(dtype)
    shifted = {
        (i, j): x[:, i : i + height : stride, j : j + width : stride].astype(dtype)
        for i in range(size)
        for j in range(size)
    }
    first, *rest = (part * kernel[place][None, None] for place, part in shifted.items())
    return sum(rest, start=first).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnames=("precision",))
def _product_on_cpu(
    x: Float[Array, "b h w c"], kernel: Float[Array, "c c2"], precision: lax.Precision
) -> Float[Array, "b h w c2"]:
    """A product whose gradient by the kernel transposes the narrower operand; XLA always takes one.

    With BatchNorm left by itself (see `normalized_conv`), a step on CPUs takes 0.91 of the time.
    """
    return jnp.matmul(x, kernel, precision=precision)


def _product_backward(
    precision: lax.Precision, kept: tuple[Array, Array], toward: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    exact = partial(jnp.matmul, precision=precision)
    a, b = (array.reshape(-1, array.shape[-1]) for array in (x, toward))
    narrower = exact(a.T, b) if a.shape[1] <= b.shape[1] else exact(b.T, a).T
    return exact(toward, kernel.T), narrower


_product_on_cpu.defvjp(lambda *given: (_product_on_cpu(*given), given[:2]), _product_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution_on_cpu(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c c2"], stride: int, dtype: Dtype
) -> Float[Array, "b h2 w2 c2"]:
    """A convolution whose gradient by the kernel is a product for each place of the kernel.

    XLA's own, a convolution as large as the map, takes 2 to 10 times as long on CPUs.
    """
    return _convolution(x, kernel, stride=stride, groups=1, dtype=dtype)


def _convolution_backward(
    stride: int, dtype: Dtype, kept: tuple[Array, Array], toward: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    size, _, narrow, broad = kernel.shape
    by_xla = partial(_convolution, kernel=kernel, stride=stride, groups=1, dtype=dtype)
    (of_x,) = jax.linear_transpose(by_xla, x)(toward)

    edge = (size // 2, size // 2)
    padded = jnp.pad(x, ((0, 0), edge, edge, (0, 0)))
    height, width = (stride * (length - 1) + 1 for length in toward.shape[1:3])

    def at(place: Array) -> Array:
        start = (0, place // size, place % size, 0)
        met = lax.dynamic_slice(padded, start, (len(x), height, width, narrow))
        met = met[:, ::stride, ::stride].reshape(-1, narrow)
        return jnp.matmul(met.T, toward.reshape(-1, broad), precision=precision(dtype))

    return of_x, lax.map(at, jnp.arange(size * size)).reshape(kernel.shape)


_convolution_on_cpu.defvjp(
    lambda *given: (_convolution_on_cpu(*given), given[:2]), _convolution_backward
)


class WinogradConv(nnx.Module):
    """A 3x3 convolution of stride 1 for inference on CPUs: 16 products for 4 outputs, not 36.

    Winograd's F(2x2, 3x3): Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR
    2016. In float32 it is as near to float64 as a direct one. A ResNet-50 with MixVPR takes 0.9 of
    the time on two cores.
    """

    def __init__(self, kernel: Float[np.ndarray, "3 3 c c2"]) -> None:
        """Transforms a kernel, in float64, to kernels in float32."""
        columns = np.tensordot(_WINOGRAD, kernel, (1, 1))
        kernels = np.tensordot(_WINOGRAD, columns, (1, 1)).reshape(16, *kernel.shape[2:])
        # Parts of one array would be copied by each call.
        self.kernels = nnx.List(
            [nnx.Param(jax.device_put(each)) for each in kernels.astype(np.float32)]
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c2"]:
        """Convolves."""
        return _winograd(x, [kernel[...] for kernel in self.kernels])


@jax.jit  # traced once for all blocks of a stage
def _winograd(x: Float[Array, "b h w c"], kernels: list[Array]) -> Float[Array, "b h w c2"]:
    batch, height, width, _ = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2  # of outputs two by two
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    parts = [part for row in _split_four(x, 1, rows) for part in _split_four(row, 2, columns)]
    exact = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    products = list(map(exact, parts, kernels))
    by_column = zip(*(_join_four(*products[place::4]) for place in range(4)), strict=True)
    outputs = jnp.stack([part for row in by_column for part in _join_four(*row)], axis=3)
    y = outputs.reshape(batch, rows, columns, 2, 2, -1).swapaxes(2, 3)
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _split_four(x: Array, axis: int, count: int) -> tuple[Array, Array, Array, Array]:
    """Four inputs for each of `count` pairs of outputs along an axis, transformed."""
    a, b, c, d = (lax.slice_in_dim(x, at, at + 2 * count - 1, 2, axis) for at in range(4))
    return a - c, b + c, c - b, b - d


def _join_four(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Array]:
    """A pair of outputs out of four products."""
    return a + b + c, b - c - d


class Sequence(nnx.Module):
    """Modules "0", "1", … in sequence; `nnx.List` has integer keys, which Linen does not allow.

    In a view with `remat_blocks`, the backward pass computes what lies within a block again.
    """

    def __init__(self, modules: Iterable[nnx.Module]) -> None:
        self.remat_blocks = False
        self.holds_blocks = True  # no stages, whose blocks lie in sequences of their own
        self.length = 0
        for module in modules:
            setattr(self, str(self.length), module)
            self.length += 1
            parts = (part for _, part in nnx.iter_modules(module))
            self.holds_blocks &= not any(isinstance(part, Sequence) for part in parts)

    def __call__(self, x: Array, *rest: Array | None) -> Array:
        run = nnx.remat(_call) if self.remat_blocks and self.holds_blocks else _call
        for module in self:
            x = run(module, x, *rest)
        return x

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, str(index)) for index in range(self.length))

    def set_view(self, remat_blocks: bool | None = None) -> None:
        """Sets the attribute of a view; called by `flax.nnx.view`."""
        if remat_blocks is not None:
            self.remat_blocks = remat_blocks


def _call(module: Any, x: Array, *rest: Array | None) -> Array:
    return module(x, *rest)


def l2_normalize(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Scales the last axis to unit norm, as torch.nn.functional.normalize; zero stays zero."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squared, 1e-24))


@jax.custom_jvp
def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The positive part of x.

    Its derivative follows from the output. That of `jax.nn.relu` needs x, so that a training step
    keeps both for its backward pass: 16.0 GB on an H100 instead of 12.5.
    """
    return jnp.maximum(x, 0)


# Not `output > 0`, which XLA rewrites as x > 0.
relu.defjvps(lambda tangent, output, _: jnp.where(output != 0, tangent, 0))
