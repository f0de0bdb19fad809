"""What transformers share: patches, LayerNorm and MLP over channels, attention safe in bfloat16."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mixvpr_jax.models.config import Dtype
from mixvpr_jax.models.layers import linear, param_dtype, precision, small_linear

# Off in programs that are written to run elsewhere.
flash_attention = ContextVar("flash_attention", default=True)


class PatchEmbedding(nnx.Module):
    """A product for each patch: images [b, h, w, 3] → tokens [b, h / patch, w / patch, c]."""

    def __init__(self, patch: int, width: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.proj = linear(patch * patch * 3, width, dtype=dtype, rngs=rngs)
        self.patch = patch

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        batch, height, width, _ = images.shape
        rows, columns = height // self.patch, width // self.patch
        patches = images.reshape(batch, rows, self.patch, columns, self.patch, 3).swapaxes(2, 3)
        return self.proj(patches.reshape(batch, rows, columns, -1))


class Norm(nnx.Module):
    """LayerNorm over a token's channels, in float32 or wider."""

    def __init__(
        self, width: int, *, epsilon: float = 1e-6, scale: float = 1.0, dtype: Dtype
    ) -> None:
        self.scale = nnx.Param(jnp.full(width, scale, param_dtype(dtype)))
        self.bias = nnx.Param(jnp.zeros(width, param_dtype(dtype)))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        wide = x.astype(self.scale.dtype)
        centred = wide - wide.mean(-1, keepdims=True)
        standard = centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + self.epsilon)
        batch = tuple(range(x.ndim - 1))
        scale, bias = (jnp.expand_dims(one[...], batch) for one in (self.scale, self.bias))
        return (standard * scale + bias).astype(x.dtype)


class MLP(nnx.Module):
    """Linear, GELU (by the error function), Linear."""

    def __init__(self, width: int, hidden: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.fc1 = small_linear(width, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = small_linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return self.fc2(gelu(self.fc1(x)))


def gelu(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """GELU by erf, in float32 or wider: PyTorch's. JAX's own, by erfc, takes twice the time."""
    wide = x.astype(param_dtype(x.dtype.name))
    return (0.5 * wide * (1 + _erf(math.sqrt(0.5) * wide))).astype(x.dtype)


@jax.custom_jvp
def _erf(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    return lax.erf(x)


# JAX 0.12 has another derivative, which it refuses within `shard_map`.
_erf.defjvps(lambda tangent, _, x: 2 / math.sqrt(math.pi) * (tangent * jnp.exp(-(x**2))))


def attend(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    value: Float[Array, "b m h d"],
    precision: lax.Precision,
) -> Float[Array, "b n h d"]:
    """Scaled dot-product attention, whose softmax is computed in float32 or wider."""
    image_by_image = partial(_image_by_image, precision=precision)
    if query.dtype == jnp.float64:  # which JAX's own function rounds to float32
        return image_by_image(query, key, value)
    ways = {"cpu": image_by_image, "default": partial(_by_jax, precision=precision)}
    if query.dtype == jnp.bfloat16 and flash_attention.get():
        ways["cuda"] = partial(_by_cudnn, precision=precision)
    return lax.platform_dependent(query, key, value, **ways)


def _by_jax(
    query: Array, key: Array, value: Array, precision: lax.Precision, **options: Any
) -> Array:
    """By JAX's own function, which takes the precision of its products from a setting."""
    with (
        jax.default_matmul_precision(precision.name.lower()),
        jax.numpy_dtype_promotion("standard"),  # it widens bfloat16 by itself
    ):
        return jax.nn.dot_product_attention(query, key, value, **options)


def _by_cudnn(query: Array, key: Array, value: Array, precision: lax.Precision) -> Array:
    """By cuDNN's flash attention, which keeps no scores, where the device and cuDNN have it.

    DINOv2-B describes 64 images on an H200 in 0.65 of the time.
    """
    attention = partial(_by_jax, precision=precision)
    capabilities = (getattr(device, "compute_capability", "") for device in jax.devices())
    if not any(found.startswith(("5.", "6.", "7.")) for found in capabilities):
        with suppress(RuntimeError):  # no cuDNN, or too old a one
            return _padded(partial(attention, implementation="cudnn"), query, key, value)
    return attention(query, key, value)


def _padded(attention: Callable[..., Array], query: Array, key: Array, value: Array) -> Array:
    """Attention that takes even numbers of tokens, as cuDNN's does for a gradient."""
    lengths = query.shape[1], key.shape[1]
    if not any(length % 2 for length in lengths):
        return attention(query, key, value)
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    counts = (jnp.full(len(query), length, jnp.int32) for length in lengths)
    options = dict(zip(("query_seq_lengths", "key_value_seq_lengths"), counts, strict=True))
    return attention(query, key, value, **options)[:, : lengths[0]]


def _image_by_image(query: Array, key: Array, value: Array, precision: lax.Precision) -> Array:
    """As products with heads first, whose scores stay in a CPU's cache.

    DINOv2-B's take 62 ms for 8 images on two cores, JAX's own 218 ms.
    """

    def attention(one: tuple[Array, Array, Array]) -> Array:
        query, key, value = (x.swapaxes(0, 1) for x in one)
        wide = param_dtype(query.dtype.name)
        scores = jnp.matmul(
            query, key.swapaxes(1, 2), precision=precision, preferred_element_type=wide
        )
        weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5).astype(value.dtype)
        return jnp.matmul(weights, value, precision=precision).swapaxes(0, 1)

    return lax.map(attention, (query, key, value))


class MultiHeadAttention(nnx.Module):
    """torch.nn.MultiheadAttention: queries [b, n, c] attend to tokens [b, m, c] → [b, n, c]."""

    def __init__(self, width: int, heads: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        zeros, glorot = nnx.initializers.zeros_init(), nnx.initializers.glorot_uniform()
        self.in_proj = linear(
            width, 3 * width, kernel_init=glorot, bias_init=zeros, dtype=dtype, rngs=rngs
        )
        self.out_proj = linear(width, width, bias_init=zeros, dtype=dtype, rngs=rngs)
        self.heads, self.precision = heads, precision(dtype)

    def __call__(
        self, queries: Float[Array, "b n c"], tokens: Float[Array, "b m c"]
    ) -> Float[Array, "b n c"]:
        width = queries.shape[-1]
        query = self._project(queries, 0, width)
        key, value = jnp.split(self._project(tokens, width, 3 * width), 2, axis=2)
        return self.out_proj(attend(query, key, value, self.precision).reshape(queries.shape))

    def _project(
        self, x: Float[Array, "b n c"], first: int, last: int
    ) -> Float[Array, "b n heads d"]:
        """Multiplies by some columns of the projection that makes queries, keys and values."""
        layer = self.in_proj
        assert layer.bias is not None
        kernel, bias = layer.kernel[:, first:last], layer.bias[first:last]
        product = jnp.matmul(x, kernel.astype(x.dtype), precision=self.precision)
        product = product + bias.astype(x.dtype)[None, None]
        return product.reshape(*x.shape[:2], -1, x.shape[-1] // self.heads)
