"""Batch and layer normalisation, written so that accelerators move few bytes.

benchmarks/tried.md says what each form gains.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from mixvpr_jax.errors import InputError
from mixvpr_jax.losses.reductions import total
from mixvpr_jax.models.config import Dtype
from mixvpr_jax.models.layers import Conv, WinogradConv, array_dtype, param_dtype, precision

Pair = tuple[Array, Array]


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, as torch.nn.BatchNorm2d computes it.

    `nnx.BatchNorm` rounds its batch_stats to a half-precision `dtype` and stores the biased
    variance; here batch_stats and arithmetic are float32 or wider and the stored variance is
    unbiased. `model.train()` and `model.eval()` set `use_running_average`; with `axis_name`
    (`nnx.view(model, axis_name="data")`) the global batch is normalised.
    """

    momentum = 0.9  # weight of the old value; PyTorch's momentum of 0.1
    epsilon = 1e-5
    valid: Bool[Array, " b"] | None = None  # see `tell_padding`

    def __init__(self, channels: int, *, dtype: Dtype) -> None:
        stored = param_dtype(dtype)
        self.scale = nnx.Param(jnp.ones(channels, stored))
        self.bias = nnx.Param(jnp.zeros(channels, stored))
        self.mean = nnx.BatchStat(jnp.zeros(channels, stored))
        self.var = nnx.BatchStat(jnp.ones(channels, stored))
        self.use_running_average = True
        self.axis_name: str | None = None
        self.is_folded = False  # see `fold_in_place`

    def __call__(
        self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b h w c"]:
        valid = self.valid if valid is None else valid
        if valid is not None and len(valid) != len(x):
            raise InputError(
                f"BatchNorm: expected the batch's {len(valid)} images along the first axis, since "
                f"some may be padding, found {len(x)} rows"
            )
        wide = x.astype(self.scale.dtype)
        factor, offset = self.affine(x.shape, valid, partial(_sums, wide, valid))
        return (wide * factor[None, None, None] + offset[None, None, None]).astype(x.dtype)

    def affine(
        self, shape: tuple[Any, ...], valid: Bool[Array, " b"] | None, sums: Callable[[Array], Pair]
    ) -> Pair:
        """Factor and offset [c] that normalise; in training those of the batch.

        Args:
            shape: Of the values, [b, h, w, c]; b may be symbolic.
            valid: Marks images that are not padding.
            sums: Maps an origin [c] to the sums [c] of value - origin and of its square, over a
                device's valid images.
        """
        mean, var = self.mean[...], self.var[...]
        if not self.use_running_average:
            images = jnp.asarray(shape[0]) if valid is None else valid.sum()
            mean, var = self._batch_statistics(images, shape[1] * shape[2], sums)
        factor = self.scale[...] * lax.rsqrt(var + self.epsilon)
        return factor, self.bias[...] - mean * factor

    def set_view(
        self, use_running_average: bool | None = None, axis_name: str | None = None
    ) -> None:
        """Sets the attributes of a view; called by `flax.nnx.view`."""
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if axis_name is not None:
            self.axis_name = axis_name

    def _batch_statistics(self, images: Array, pixels: int, sums: Callable[[Array], Pair]) -> Pair:
        """Mean and variance of the valid images; updates batch_stats unless all is padding.

        One pass over the values and one collective. The running mean as origin keeps float32 from
        cancelling.
        """
        origin = lax.stop_gradient(self.mean[...])
        images, first, second = total((images, *sums(origin)), self.axis_name)
        count = jnp.maximum(images, 1).astype(first.dtype) * pixels
        shift = first / count
        mean, var = origin + shift, jnp.maximum(second / count - shift**2, 0)
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        for running, value in ((self.mean, mean), (self.var, unbiased)):
            blend = self.momentum * running[...] + (1 - self.momentum) * value
            moved = jnp.where(images > 0, blend, running[...])
            running.set_value(lax.stop_gradient(moved))  # assignment costs a third of the tracing
        return mean, var


def tell_padding(model: nnx.Module, valid: Bool[Array, " b"]) -> None:
    """Makes each BatchNorm leave out padding, also in plug-ins, whose calls pass no `valid`."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            module.valid = valid


def normalized_conv(
    conv: Conv | WinogradConv,
    norm: BatchNorm,
    x: Float[Array, "b h w c"],
    valid: Bool[Array, " b"] | None = None,
) -> Float[Array, "b h2 w2 c2"]:
    """`norm(conv(x), valid)`, with the normalisation folded into the kernel where that is cheaper.

    Then compilers add offset, shortcut and ReLU to the product before they write it. With running
    averages it always is. In training it is for 1x1 convolutions that do not narrow: the moments of
    their output follow from those of their input, which is smaller. CPUs have no use for that.
    """
    if norm.is_folded:
        return conv(x) + norm.bias[...][None, None, None]
    assert isinstance(conv, Conv)
    kernel, step = conv.kernel[...], conv.stride
    size, _, narrow, broad = kernel.shape
    if not norm.use_running_average and (size > 1 or narrow > broad or conv.platform == "cpu"):
        return norm(conv(x), valid)

    strided = x[:, ::step, ::step]
    sums = partial(_sums_of_product, strided, valid, kernel[0, 0])
    factor, offset = norm.affine(strided.shape, valid, sums)
    y = conv(x, kernel * factor[None, None, None])
    return y + offset.astype(y.dtype)[None, None, None]


def folded(conv: Conv, norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and offset of one convolution that is `norm(conv(x))` by batch_stats, in float64."""
    kernel, scale, bias, mean, var = (
        np.asarray(value[...], np.float64)
        for value in (conv.kernel, norm.scale, norm.bias, norm.mean, norm.var)
    )
    factor = scale / np.sqrt(var + norm.epsilon)
    return kernel * factor, bias - mean * factor


def fold_in_place(backbone: nnx.Module, platform: str | None = None) -> None:
    """Folds each BatchNorm `bn…` of a backbone of ours into the convolution that it normalises.

    That is the one that `convs` of their module names, or `conv…`. Kernels and offsets are then of
    the dtype that they are computed with; on CPUs 3x3 convolutions become `WinogradConv`.
    """
    for _, module in nnx.iter_modules(backbone):
        convs = getattr(module, "convs", {})
        for name, norm in vars(module).items():
            if isinstance(norm, BatchNorm):
                own = convs.get(name) or name.replace("bn", "conv")
                conv = getattr(module, own)
                kernel, offset = folded(conv, norm)
                dtype = array_dtype(conv.dtype)
                is_plain = conv.stride == conv.groups == 1 and dtype == "float32"
                if platform == "cpu" and is_plain and len(kernel) == 3:
                    setattr(module, own, WinogradConv(kernel))
                else:
                    conv.kernel = nnx.Param(jax.device_put(kernel.astype(dtype)))
                norm.bias = nnx.Param(jax.device_put(offset.astype(dtype)))
                norm.is_folded = True


def _sums(
    x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None, origin: Float[Array, " c"]
) -> Pair:
    shifted = x - origin[None, None, None]
    first, second = (power.sum((1, 2)) for power in (shifted, shifted**2))
    if valid is not None:
        first, second = (jnp.where(valid[:, None], some, 0) for some in (first, second))
    return first.sum(0), second.sum(0)


def _sums_of_product(
    x: Float[Array, "b h w c"],
    valid: Bool[Array, " b"] | None,
    kernel: Float[Array, "c c2"],
    origin: Float[Array, " c2"],
) -> Pair:
    """`_sums` of x @ kernel, by the mean m and the scatter matrix S of x: m @ k and k @ S @ k."""
    wide = kernel.dtype
    images = jnp.asarray(len(x)) if valid is None else valid.sum()
    count = images.astype(wide) * (x.shape[1] * x.shape[2])
    divisor = jnp.maximum(count, 1)  # a device may have nothing but padding
    if valid is not None:
        x *= valid.astype(x.dtype)[:, None, None, None]
    sums = x.astype(wide).sum((0, 1, 2))
    gram: Array = _gram(x, wide)
    scatter = gram - sums[:, None] * sums[None] / divisor
    exact = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    first = exact(sums, kernel) - count * origin
    # A barrier, as libtpu's compiler for v6e fails where it fuses this product with what follows.
    product = lax.optimization_barrier(exact(scatter, kernel))
    return first, (product * kernel).sum(0) + first**2 / divisor


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _gram(x: Float[Array, "b h w c"], dtype: DTypeLike) -> Float[Array, "c c"]:
    """x^T x, without a reshape: TPUs would copy x. Backwards one product, where JAX makes two."""
    exact = precision(x.dtype.name)
    return jnp.einsum("bhwc,bhwd->cd", x, x, precision=exact, preferred_element_type=dtype)


@_gram.defjvp
def _gram_jvp(dtype: DTypeLike, primals: tuple[Array], tangents: tuple[Array]) -> Pair:
    (x,), (direction,) = primals, tangents
    exact = precision(x.dtype.name)
    half = jnp.einsum("bhwc,bhwd->cd", x, direction, precision=exact).astype(dtype)
    gram: Array = _gram(x, dtype)
    return gram, half + half.T


def layer_norm(layer: nnx.LayerNorm, x: Float[Array, "n a"]) -> Float[Array, "n a"]:
    """Applies a LayerNorm along the first axis, as torch.nn.LayerNorm computes it."""
    assert layer.scale is not None and layer.bias is not None
    return _layer_norm(x, layer.scale[...], layer.bias[...])


@jax.custom_jvp
def _layer_norm(
    x: Float[Array, "n a"], scale: Float[Array, " n"], bias: Float[Array, " n"]
) -> Float[Array, "n a"]:
    return _normalized(x, scale, bias, *_mean_and_reciprocal(x, scale))


def _mean_and_reciprocal(x: Array, scale: Array) -> Pair:
    """Mean over the first axis, and the reciprocal of the standard deviation."""
    wide = x.astype(scale.dtype)
    mean = _mean(wide)
    return mean, lax.rsqrt(_mean((wide - mean) ** 2) + 1e-5)


def _mean(x: Float[Array, "n a"]) -> Float[Array, "1 a"]:
    """The mean over the first axis; on CPUs a product.

    XLA fuses a sum with the products around it, and then takes twice as long for all of them.
    """
    weights = jnp.full((1, len(x)), 1 / len(x), x.dtype)
    return lax.platform_dependent(
        x,
        cpu=partial(jnp.matmul, weights, precision=lax.Precision.HIGHEST),
        default=partial(jnp.mean, axis=0, keepdims=True),
    )


def _normalized(x: Array, scale: Array, bias: Array, mean: Array, reciprocal: Array) -> Array:
    standard = (x.astype(scale.dtype) - mean) * reciprocal
    return (standard * scale[:, None] + bias[:, None]).astype(x.dtype)


@_layer_norm.defjvp
def _layer_norm_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> Pair:
    x, scale, bias = primals
    mean, reciprocal = _mean_and_reciprocal(x, scale)

    @jax.checkpoint  # keeps x for the backward pass, where JAX keeps float32 copies of it
    def derivative(x: Array, mean: Array, reciprocal: Array, scale: Array, *toward: Array) -> Array:
        of_x, of_scale, of_bias = toward
        standard = (x.astype(scale.dtype) - mean) * reciprocal
        wide = of_x.astype(scale.dtype)
        along = (standard * wide).mean(0, keepdims=True)
        moved = (wide - wide.mean(0, keepdims=True) - standard * along) * reciprocal
        moved = moved * scale[:, None] + standard * of_scale[:, None] + of_bias[:, None]
        return moved.astype(x.dtype)

    normalized = _normalized(x, scale, bias, mean, reciprocal)
    return normalized, derivative(x, mean, reciprocal, scale, *tangents)
