"""What the vision transformers share: patches, and the MLP over channels."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mixvpr_jax.models.config import Dtype
from mixvpr_jax.models.layers import linear


class MLP(nnx.Module):
    """Linear, GELU (by the error function), Linear."""

    def __init__(self, width: int, hidden: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.fc1 = small_linear(width, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = small_linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return self.fc2(gelu(self.fc1(x)))


def gelu(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """GELU by erf, in float32 or wider: PyTorch's. JAX's own, by erfc, takes twice the time."""
    wide = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    return (0.5 * wide * (1 + lax.erf(math.sqrt(0.5) * wide))).astype(x.dtype)


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


def small_linear(
    inputs: int, outputs: int, *, dtype: Dtype, rngs: nnx.Rngs, use_bias: bool = True
) -> nnx.Linear:
    """A Linear layer that begins as the authors': a truncated normal, zero biases."""
    return linear(
        inputs,
        outputs,
        dtype=dtype,
        rngs=rngs,
        use_bias=use_bias,
        kernel_init=nnx.initializers.truncated_normal(0.02),
        bias_init=nnx.initializers.zeros_init(),
    )
