"""Pillow's antialiased bilinear resize on the accelerator, images of several sizes in one batch."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt8


def resize(
    images: UInt8[Array, "b h w 3"], sizes: Int[Array, "b 2"], image_size: tuple[int, int]
) -> UInt8[Array, "b height width 3"]:
    """Every image at one size, within a grey level of `Preprocess.resize`.

    Args:
        images: Each in the upper left corner of its canvas.
        sizes: Their heights and widths on it, in pixels.
        image_size: The height and width to make of them.
    """
    height, width = image_size
    across = _weights(sizes[:, 1], images.shape[2], width)
    down = _weights(sizes[:, 0], images.shape[1], height)
    # Pillow rounds in between, too. Without, no pixel can be off by more than one level; with, ties
    # of a half, which float32 breaks otherwise than Pillow's fixed point, could add up to two.
    narrowed = _dot("bhwc,bow->bhoc", images.astype(jnp.float32), across)
    return jnp.floor(_dot("bhwc,boh->bowc", narrowed, down) + 0.5).astype(jnp.uint8)


def _weights(sizes: Int[Array, " b"], length: int, wanted: int) -> Float[Array, "b wanted length"]:
    """How much each pixel of a line gives to each of the new one: triangles, their sums 1."""
    size = sizes.astype(jnp.float32)[:, None, None]
    scale = size / wanted
    centres = (jnp.arange(wanted, dtype=jnp.float32)[None, :, None] + 0.5) * scale
    pixels = jnp.arange(length, dtype=jnp.float32)[None, None] + 0.5
    triangles = jnp.maximum(1 - jnp.abs(pixels - centres) / jnp.maximum(scale, 1), 0)
    triangles = jnp.where(pixels < size, triangles, 0)
    return triangles / jnp.maximum(triangles.sum(-1, keepdims=True), 1e-6)


_dot = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
