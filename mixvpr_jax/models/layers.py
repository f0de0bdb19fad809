"""Layers with PyTorch's conventions: Linear, convolution, batch normalisation, sequence."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from mixvpr_jax.losses.reductions import total
from mixvpr_jax.models.config import Dtype

# torchvision's ResNet: kaiming_normal_(mode="fan_out", nonlinearity="relu").
he_normal_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
# The default of torch.nn.Linear and Conv2d: uniform within 1/sqrt(fan_in).
torch_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def param_dtype(dtype: str) -> Dtype:
    """Dtype of parameters: float64 for a float64 model, otherwise float32."""
    return "float64" if dtype == "float64" else "float32"


def precision(dtype: str) -> lax.Precision:
    """Full float32 products, which GPUs and TPUs round to TF32 or bfloat16 by default."""
    return lax.Precision.DEFAULT if dtype == "bfloat16" else lax.Precision.HIGHEST


def linear(
    in_features: int, out_features: int, *, dtype: Dtype, rngs: nnx.Rngs, **options: object
) -> nnx.Linear:
    """A Linear layer with the initialisation of torch.nn.Linear."""

    def bias_init(key: Array, shape: tuple[int, ...], kind: str) -> Array:
        bound = in_features**-0.5
        return jax.random.uniform(key, shape, kind, -bound, bound)

    return nnx.Linear(
        in_features,
        out_features,
        **{"kernel_init": torch_uniform, "bias_init": bias_init, **options},
        dtype=dtype,
        param_dtype=param_dtype(dtype),
        precision=precision(dtype),
        rngs=rngs,
    )


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
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        kernel = self.kernel[...].astype(self.dtype)
        size = kernel.shape[0]
        if size == 1:
            x = x[:, :: self.stride, :: self.stride]
            return jnp.matmul(x, kernel[0, 0], precision=precision(self.dtype))
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=[(size // 2, size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
            precision=precision(self.dtype),
        )


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, as torch.nn.BatchNorm2d computes it.

    `nnx.BatchNorm` rounds its batch_stats to a half-precision `dtype` and stores the biased
    variance; here batch_stats and arithmetic are float32 or wider and the stored variance is
    unbiased. `model.train()` and `model.eval()` set `use_running_average`; with `axis_name`
    (`nnx.view(model, axis_name="data")`) the global batch is normalised.
    """

    momentum = 0.9  # weight of the old value; PyTorch's momentum of 0.1
    epsilon = 1e-5

    def __init__(self, channels: int, *, dtype: Dtype) -> None:
        stored = param_dtype(dtype)
        self.scale = nnx.Param(jnp.ones(channels, stored))
        self.bias = nnx.Param(jnp.zeros(channels, stored))
        self.mean = nnx.BatchStat(jnp.zeros(channels, stored))
        self.var = nnx.BatchStat(jnp.ones(channels, stored))
        self.use_running_average = True
        self.axis_name: str | None = None

    def __call__(
        self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b h w c"]:
        wide = x.astype(self.scale.dtype)
        mean, var = self.mean[...], self.var[...]
        if not self.use_running_average:
            mean, var = self._batch_statistics(wide, valid)
        factor = self.scale[...] * lax.rsqrt(var + self.epsilon)
        offset = self.bias[...] - mean * factor
        return (wide * factor[None, None, None] + offset[None, None, None]).astype(x.dtype)

    def set_view(
        self, use_running_average: bool | None = None, axis_name: str | None = None
    ) -> None:
        """Sets the attributes of a view; called by `flax.nnx.view`."""
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if axis_name is not None:
            self.axis_name = axis_name

    def _batch_statistics(
        self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None
    ) -> tuple[Array, Array]:
        """Mean and variance of the valid images; updates batch_stats unless all is padding."""
        weights = jnp.ones(len(x), x.dtype) if valid is None else valid.astype(x.dtype)
        weights = weights[:, None, None, None]
        images = total(weights.sum(), self.axis_name)
        count = jnp.maximum(images, 1) * (x.shape[1] * x.shape[2])
        mean = total((x * weights).sum((0, 1, 2)), self.axis_name) / count
        centred = x - mean[None, None, None]
        var = total((centred**2 * weights).sum((0, 1, 2)), self.axis_name) / count
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        for running, value in ((self.mean, mean), (self.var, unbiased)):
            blend = self.momentum * running[...] + (1 - self.momentum) * value
            running[...] = lax.stop_gradient(jnp.where(images > 0, blend, running[...]))
        return mean, var


class Sequence(nnx.Module):
    """Modules "0", "1", … in sequence; `nnx.List` has integer keys, which Linen does not allow."""

    def __init__(self, modules: Iterable[nnx.Module]) -> None:
        self.length = 0
        for module in modules:
            setattr(self, str(self.length), module)
            self.length += 1

    def __call__(self, x: Array, *rest: Array | None) -> Array:
        for index in range(self.length):
            x = getattr(self, str(index))(x, *rest)
        return x


def l2_normalize(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Scales the last axis to unit norm, as torch.nn.functional.normalize; zero stays zero."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squared, 1e-24))
