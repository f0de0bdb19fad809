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
Floats = np.ndarray | np.floating


class Taps(NamedTuple):
    """What each of n outputs is a weighted sum of, in the order in which PyTorch adds.

    Attributes:
        inputs: [t, n] indices.
        weights: [t, n] float32.
        fused: [t, n] bool, whether a product is added without being rounded before.
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
    scale, a = F(1 / ((size + 0.1) / inputs)), F(-0.75)
    places = _fma(scale, np.arange(size, dtype=F) + F(0.5), F(-0.5))
    before = np.floor(places)
    t = places - before
    weights = np.stack([_inner(t, a), _outer(1 + t, a), _inner(1 - t, a), _outer(1 - t + 1, a)])
    rows = before.astype(int) + np.array([[0], [-1], [1], [2]])
    return Taps(np.clip(rows, 0, inputs - 1), weights, np.ones(rows.shape, bool))


@cache
def antialiased_bicubic(size: int, inputs: int) -> Taps:
    """Of `interpolate(size=size, mode="bicubic", antialias=True)`, Pillow's filter."""
    scale = F(inputs) / F(size)
    stretch = max(scale, F(1))
    centres = scale * (np.arange(size, dtype=F) + F(0.5))
    first = np.maximum((centres - 2 * stretch + F(0.5)).astype(int), 0)
    counts = np.minimum((centres + 2 * stretch + F(0.5)).astype(int), inputs) - first
    taps = np.arange(counts.max())[:, None]
    # PyTorch's literal 0.5 is a double.
    offsets = (taps.astype(F) + (first.astype(F) - centres)).astype(np.float64) + 0.5
    weights = _pillow((offsets * np.float64(1 / stretch)).astype(F))
    weights = np.where(taps < counts, weights, F(0))
    weights /= np.cumsum(weights, axis=0)[-1]  # added one by one
    # The loop's products are computed four at a time, and what remains is fused.
    fused = taps > (counts - 1) // 4 * 4
    return Taps(np.where(taps < counts, first + taps, 0), weights, fused)


def interpolate(grid: Float[Array, "h w c"], rows: Taps, columns: Taps) -> Float[Array, "h2 w2 c"]:
    """Both sums: first along the columns of each row, then along the rows."""
    across = _summed(to_float32(grid).swapaxes(0, 1), columns).swapaxes(0, 1)
    return _summed(across, rows)


def to_float32(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Rounds to float32, and stays of its dtype."""
    return lax.reduce_precision(x, 8, 23) if x.dtype == jnp.float64 else x


def _summed(x: Float[Array, "n m c"], taps: Taps) -> Float[Array, "n2 m c"]:
    total = jnp.zeros((taps.inputs.shape[1], *x.shape[1:]), x.dtype)
    for inputs, weights, fused in zip(*taps, strict=True):
        product = x[inputs] * jnp.asarray(weights, x.dtype)[:, None, None]
        product = jnp.where(fused[:, None, None], product, to_float32(product))
        total = to_float32(product + total)
    return total


def _inner(x: np.ndarray, a: np.floating) -> np.ndarray:
    """Keys' kernel (1981) up to a distance of 1."""
    return ((a + 2) * x - (a + 3)) * x * x + 1


def _outer(x: np.ndarray, a: np.floating) -> np.ndarray:
    """The same between 1 and 2."""
    return _fma(_fma(a, x, -5 * a), x, 8 * a) * x - 4 * a


def _pillow(places: np.ndarray) -> np.ndarray:
    x, a = abs(places), F(-0.5)
    inner = _fma(_fma(a + 2, x, -(a + 3)) * x, x, F(1))
    outer = _fma(_fma(x - 5, x, F(8)), x, F(-4)) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, F(0)))


def _fma(x: Floats, y: Floats, z: Floats) -> np.ndarray:
    """The product and the sum, rounded once."""
    return np.asarray(np.float64(x) * np.float64(y) + np.float64(z), F)
