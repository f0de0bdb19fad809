"""Position embeddings of another size, as PyTorch interpolates them: to the last bit of float32.

DINOv2's code interpolates in float32 whatever the model's dtype, and its two generations do it in
two ways. A float64 model rounds where PyTorch's CPU kernels do, so that it equals the original.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

F = np.float32


class Taps(NamedTuple):
    """What each of n outputs is a weighted sum of, in the order in which PyTorch adds.

    Attributes:
        inputs: [n, t] indices.
        weights: [n, t] float32.
        fused: [n, t] bool, whether a product is added without being rounded before.
    """

    inputs: np.ndarray
    weights: np.ndarray
    fused: np.ndarray


@cache
def offset_bicubic(size: int, inputs: int) -> Taps:
    """Of `interpolate(scale_factor=(size + 0.1) / inputs, mode="bicubic")`.

    The offset of 0.1 moves the samples, since PyTorch computes their places from the factor.
    Neighbours beyond the border are the border itself.
    """
    rows, weights = np.zeros((size, 4), int), np.zeros((size, 4), F)
    scale, a = F(1 / ((size + 0.1) / inputs)), F(-0.75)
    for row in range(size):
        place = _fma(scale, F(row + 0.5), F(-0.5))
        first = int(np.floor(place)) - 1
        t = place - F(first + 1)
        weights[row] = [_outer(1 + t, a), _inner(t, a), _inner(1 - t, a), _outer(1 - t + 1, a)]
        rows[row] = np.clip(np.arange(first, first + 4), 0, inputs - 1)
    order = [1, 0, 2, 3]
    return Taps(rows[:, order], weights[:, order], np.ones((size, 4), bool))


@cache
def antialiased_bicubic(size: int, inputs: int) -> Taps:
    """Of `interpolate(size=size, mode="bicubic", antialias=True)`, Pillow's filter."""
    scale = F(inputs) / F(size)
    stretch = max(scale, F(1))
    most = 2 * int(np.ceil(2 * stretch)) + 1
    taps = Taps(
        np.zeros((size, most), int), np.zeros((size, most), F), np.zeros((size, most), bool)
    )
    for row in range(size):
        centre = scale * F(row + 0.5)
        first = max(int(centre - 2 * stretch + F(0.5)), 0)
        count = min(int(centre + 2 * stretch + F(0.5)), inputs) - first
        # PyTorch's literal 0.5 is a double.
        offsets = (np.float64(F(k) + (F(first) - centre)) + 0.5 for k in range(count))
        places = (F(offset * np.float64(1 / stretch)) for offset in offsets)
        weights = [_pillow(place) for place in places]
        total = F(0)
        for weight in weights:
            total += weight
        taps.inputs[row, :count] = np.arange(first, first + count)
        taps.weights[row, :count] = [weight / total for weight in weights]
        # The loop's products are computed four at a time, and what remains is fused.
        taps.fused[row] = np.arange(most) > (count - 1) // 4 * 4
    return taps


def interpolate(grid: Float[Array, "h w c"], rows: Taps, columns: Taps) -> Float[Array, "h2 w2 c"]:
    """Both sums: first along the columns of each row, then along the rows."""
    across = _summed(to_float32(grid).swapaxes(0, 1), columns).swapaxes(0, 1)
    return _summed(across, rows)


def to_float32(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Rounds to float32, and stays of its dtype."""
    return lax.reduce_precision(x, 8, 23) if x.dtype == jnp.float64 else x


def _summed(x: Float[Array, "n m c"], taps: Taps) -> Float[Array, "n2 m c"]:
    total = jnp.zeros((len(taps.inputs), *x.shape[1:]), x.dtype)
    for inputs, weights, fused in zip(*(part.T for part in taps), strict=True):
        product = x[inputs] * jnp.asarray(weights, x.dtype)[:, None, None]
        product = jnp.where(fused[:, None, None], product, to_float32(product))
        total = to_float32(product + total)
    return total


def _inner(x: np.float32, a: np.float32) -> np.float32:
    """Keys' kernel (1981) up to a distance of 1."""
    return ((a + 2) * x - (a + 3)) * x * x + 1


def _outer(x: np.float32, a: np.float32) -> np.float32:
    """The same between 1 and 2."""
    return _fma(_fma(a, x, -5 * a), x, 8 * a) * x - 4 * a


def _pillow(place: np.float32) -> np.float32:
    x, a = abs(place), F(-0.5)
    if x < 1:
        return _fma(_fma(a + 2, x, -(a + 3)) * x, x, F(1))
    return _fma(_fma(x - 5, x, F(8)), x, F(-4)) * a if x < 2 else F(0)


def _fma(x: np.float32, y: np.float32, z: np.float32) -> np.float32:
    """The product and the sum, rounded once."""
    return F(np.float64(x) * np.float64(y) + np.float64(z))
