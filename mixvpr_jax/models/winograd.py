"""3x3 convolutions with half the products, for inference on CPUs.

Winograd's minimal filtering F(2x2, 3x3): Lavin & Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


class WinogradConv(nnx.Module):
    """A 3x3 convolution of stride 1, padded by one: 16 products for 4 outputs in place of 36.

    In float32 it is as near to float64 as a direct one. A ResNet-50 with MixVPR takes 0.9 of the
    time on two cores.
    """

    def __init__(self, kernel: Float[np.ndarray, "3 3 c c2"]) -> None:
        """Transforms a kernel, in float64, to kernels in float32."""
        columns = np.tensordot(OF_KERNEL, kernel, (1, 1))
        kernels = np.tensordot(OF_KERNEL, columns, (1, 1)).reshape(16, *kernel.shape[2:])
        # Parts of one array would be copied by each call.
        self.kernels = nnx.List(
            [nnx.Param(jax.device_put(each)) for each in kernels.astype(np.float32)]
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c2"]:
        """Convolves."""
        return _convolve(x, [kernel[...] for kernel in self.kernels])


@jax.jit  # traced once for all blocks of a stage
def _convolve(x: Float[Array, "b h w c"], kernels: list[Array]) -> Float[Array, "b h w c2"]:
    batch, height, width, _ = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2  # of outputs two by two
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    parts = [part for row in _split(x, 1, rows) for part in _split(row, 2, columns)]
    exact = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    products = list(map(exact, parts, kernels))
    by_column = zip(*(_join(*products[place::4]) for place in range(4)), strict=True)
    outputs = jnp.stack([part for row in by_column for part in _join(*row)], axis=3)
    y = outputs.reshape(batch, rows, columns, 2, 2, -1).swapaxes(2, 3)
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _split(x: Array, axis: int, count: int) -> tuple[Array, Array, Array, Array]:
    """Four inputs for each of `count` pairs of outputs along an axis, transformed."""
    a, b, c, d = (lax.slice_in_dim(x, at, at + 2 * count - 1, 2, axis) for at in range(4))
    return a - c, b + c, c - b, b - d


def _join(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Array]:
    """A pair of outputs out of four products."""
    return a + b + c, b - c - d
