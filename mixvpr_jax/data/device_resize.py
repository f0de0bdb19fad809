"""Pillow's antialiased resize on the accelerator, images of several sizes in one batch."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from mixvpr_jax.config import Interpolation


def resize(
    images: UInt8[Array, "b h w 3"],
    sizes: Int[Array, "b 2"],
    image_size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
) -> UInt8[Array, "b height width 3"]:
    """Every image at one size, within a grey level of `Preprocess.resize`.

    Args:
        images: Each in the upper left corner of its canvas.
        sizes: Their heights and widths on it, in pixels.
        image_size: The height and width to make of them.
        interpolation: Pillow's filter.
    """
    height, width = image_size
    across = _weights(sizes[:, 1], images.shape[2], width, interpolation)
    down = _weights(sizes[:, 0], images.shape[1], height, interpolation)
    # Pillow rounds in between, too. Without, no pixel can be off by more than one level; with, ties
    # of a half, which float32 breaks otherwise than Pillow's fixed point, could add up to two.
    narrowed = _dot("bhwc,bow->bhoc", images.astype(jnp.float32), across)
    if interpolation == "bicubic":  # overshoots at edges, where Pillow clips in between
        narrowed = jnp.clip(narrowed, 0, 255)
    resized = jnp.floor(_dot("bhwc,boh->bowc", narrowed, down) + 0.5)
    return (jnp.clip(resized, 0, 255) if interpolation == "bicubic" else resized).astype(jnp.uint8)


def _weights(
    sizes: Int[Array, " b"], length: int, wanted: int, interpolation: Interpolation
) -> Float[Array, "b wanted length"]:
    """How much each pixel of a line gives to each of the new one; their sums are 1."""
    size = sizes.astype(jnp.float32)[:, None, None]
    scale = size / wanted
    centres = (jnp.arange(wanted, dtype=jnp.float32)[None, :, None] + 0.5) * scale
    pixels = jnp.arange(length, dtype=jnp.float32)[None, None] + 0.5
    distances = jnp.abs(pixels - centres) / jnp.maximum(scale, 1)
    weights = jnp.maximum(1 - distances, 0) if interpolation == "bilinear" else _cubic(distances)
    weights = jnp.where(pixels < size, weights, 0)
    return weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6)


def _cubic(x: Float[Array, "b new old"]) -> Float[Array, "b new old"]:
    """Keys' cubic convolution kernel (1981) of distances, with Pillow's a = -1/2."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


_dot = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
