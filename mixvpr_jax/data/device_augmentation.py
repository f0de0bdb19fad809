"""RandAugment on the accelerator: the operations of `rand_augment`, batched, grey levels as there.

An operation moves pixels, or blends them with a degenerate image, or maps grey levels. So a round
is one blend and one map for the whole batch, which are the identity for the other images.
Expensive operations, warps and histograms, run only on the images that drew them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8

from mixvpr_jax.data.augmentation import ENHANCE, OPERATIONS, amount, inverse_affine
from mixvpr_jax.data.config import AugmentationConfig
from mixvpr_jax.data.loader import Batch
from mixvpr_jax.distributed import AXIS
from mixvpr_jax.models.config import Interpolation

Pixels = Float[Array, "b h w 3"]  # whole grey levels, 0 to 255
Index = Int[Array, " b"]  # into OPERATIONS
AT_ONCE = 16  # images of an operation that costs much
COARSE = 2.0**-14  # the unit of a map's coarse part, whose sums float32 holds exactly below 512


def rand_augment(
    images: UInt8[Array, "b h w 3"], operations: Integer[Array, "b k"], magnitude: int
) -> UInt8[Array, "b h w 3"]:
    """Images after the operations of `augmentation.draw_operations`, of strength 0 to 30."""
    size = (images.shape[1], images.shape[2])
    matrices, factors = _tables(magnitude, size)
    bits, threshold = (amount(name, magnitude, size) for name in ("Posterize", "Solarize"))

    def one_round(pixels: Pixels, operation: Integer[Array, " b"]) -> tuple[Pixels, None]:
        index = jnp.abs(operation.astype(jnp.int32))
        direction = (operation < 0).astype(jnp.int32)
        first, last, equalize = map(OPERATIONS.index, ("ShearX", "Rotate", "Equalize"))
        is_warp = (index >= first) & (index <= last)
        pixels = _of_some(jax.vmap(_warp), is_warp, pixels, matrices[direction, index])
        pixels = _of_some(_equalized, index == equalize, pixels)
        pixels = _blend(pixels, index, factors[direction, index])
        return _map_levels(pixels, index, int(bits), threshold), None

    pixels, _ = lax.scan(one_round, images.astype(jnp.float32), operations.T)
    return pixels.astype(jnp.uint8)


def _tables(magnitude: int, size: tuple[int, int]) -> tuple[Array, Array]:
    """By direction and operation: the affine map and the factor of blending [2, 14].

    A map [2, 14, 2, 6] is the sum of a coarse part, in units of COARSE, and the rest.
    """
    matrices = np.zeros((2, len(OPERATIONS), 6))
    factors = np.ones((2, len(OPERATIONS)), np.float32)
    for direction, sign in enumerate((1, -1)):
        for index, name in enumerate(OPERATIONS):
            value = sign * amount(name, magnitude, size)
            matrices[direction, index] = inverse_affine(name, value, size)
            if name in ENHANCE:
                factors[direction, index] += value
    matrices[..., [2, 5]] -= 0.5  # to the pixel's centre
    coarse = np.round(matrices / COARSE) * COARSE
    parts = np.stack([coarse, matrices - coarse], axis=2)
    return jnp.asarray(parts, jnp.float32), jnp.asarray(factors)


def _of_some(
    function: Callable[..., Pixels], chosen: Bool[Array, " b"], pixels: Pixels, *given: Array
) -> Pixels:
    """The function of the chosen images, AT_ONCE at a time, and the others as they are.

    Warping and equalizing every image took RandAugment 4.6 times as long (96 images, a CPU).
    """
    count, size = len(pixels), min(AT_ONCE, len(pixels))
    rows = jnp.flatnonzero(chosen, size=count + size, fill_value=count)  # no row: dropped

    def some(state: tuple[Array, Pixels]) -> tuple[Array, Pixels]:
        start, pixels = state
        these = lax.dynamic_slice_in_dim(rows, start, size)
        taken = (part.at[these].get(mode="clip") for part in (pixels, *given))
        return start + size, pixels.at[these].set(function(*taken), mode="drop")

    start = jnp.zeros((), jnp.int32)
    return lax.while_loop(lambda state: state[0] < chosen.sum(), some, (start, pixels))[1]


def _warp(pixels: Float[Array, "h w 3"], matrix: Float[Array, "2 6"]) -> Float[Array, "h w 3"]:
    """Bilinear, black beyond the borders, fractions cut off, as Pillow's transform."""
    height, width, _ = pixels.shape
    x = jnp.arange(width, dtype=jnp.float32)[None, :] + 0.5
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    left, right_part, inside_x = _source(matrix[:, :3], x, y, width)
    top, lower_part, inside_y = _source(matrix[:, 3:], x, y, height)
    inside = inside_x & inside_y

    def row_of(offset: int) -> Float[Array, "h w 3"]:
        row = jnp.clip(top + offset, 0, height - 1)
        columns = (jnp.clip(left + step, 0, width - 1) for step in (0, 1))
        near, far = (pixels[row, column] for column in columns)
        return near + (far - near) * right_part

    upper, lower = row_of(0), row_of(1)
    return jnp.where(inside[..., None], jnp.floor(upper + (lower - upper) * lower_part), 0.0)


def _source(
    weights: Float[Array, "2 3"], x: Float[Array, "1 w"], y: Float[Array, "h 1"], size: int
) -> tuple[Int[Array, "h w"], Float[Array, "h w 1"], Bool[Array, "h w"]]:
    """Where pixels come from along one axis: the pixel before, how far beyond it, whether inside.

    XLA may compute a coordinate twice, once for the pixel and once for the fraction, and round it
    to different sides of a pixel's centre. Sums of the coarse part are exact, and the rest is so
    small that its rounding does not matter.
    """
    coarse, rest = (x * part[0] + (y * part[1] + part[2]) for part in weights)
    place = coarse + rest
    before = jnp.floor(place)
    inside = (place >= -0.5) & (place < size - 0.5)
    return before.astype(jnp.int32), (coarse - before + rest)[..., None], inside


def _blend(pixels: Pixels, index: Index, factor: Float[Array, " b"]) -> Pixels:
    """Toward, or away from, black, grey, the mean grey or a smoothed image."""
    grey = _grey(pixels)
    mean = jnp.floor(grey.mean((1, 2), keepdims=True) + 0.5)
    other = jnp.zeros_like(pixels)
    for name, degenerate in (("Color", grey), ("Contrast", mean), ("Sharpness", _smooth(pixels))):
        other = jnp.where(_is(index, name), degenerate, other)
    blended = jnp.floor(jnp.clip(other + factor[:, None, None, None] * (pixels - other), 0, 255))
    return jnp.where((factor == 1)[:, None, None, None], pixels, blended)


def _map_levels(pixels: Pixels, index: Index, bits: int, threshold: float) -> Pixels:
    """Grey level by grey level: Posterize, Solarize, AutoContrast."""
    step = float(2 ** (8 - bits))
    low, high = (edge(pixels, (1, 2), keepdims=True) for edge in (jnp.min, jnp.max))
    span = jnp.maximum(high - low, 1)
    stretched = jnp.floor((pixels - low) * 255 / span)  # whole numbers up to 2^16: exact
    for name, mapped in (
        ("Posterize", jnp.floor(pixels / step) * step),
        ("Solarize", jnp.where(pixels >= threshold, 255 - pixels, pixels)),
        ("AutoContrast", jnp.where(high > low, stretched, pixels)),
    ):
        pixels = jnp.where(_is(index, name), mapped, pixels)
    return pixels


def _is(index: Index, name: str) -> Array:
    return (index == OPERATIONS.index(name))[:, None, None, None]


def _grey(pixels: Pixels) -> Float[Array, "b h w 1"]:
    """ITU-R 601 luma in Pillow's fixed point of 16 bits."""
    weights = jnp.asarray([19595, 38470, 7471], jnp.int32)
    summed = (pixels.astype(jnp.int32) * weights[None, None, None]).sum(-1, keepdims=True)
    return ((summed + 0x8000) >> 16).astype(jnp.float32)


def _smooth(pixels: Pixels) -> Pixels:
    """Pillow's SMOOTH: 3x3, the centre five times; the border stays as it is."""
    height, width = pixels.shape[1:3]
    summed = 4 * pixels[:, 1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            summed += pixels[:, row : row + height - 2, column : column + width - 2]
    return pixels.at[:, 1:-1, 1:-1].set(jnp.floor(summed / 13 + 0.5))


def _equalized(pixels: Pixels) -> Pixels:
    """Every channel with a flat histogram."""
    channels = jnp.moveaxis(pixels, -1, 1).astype(jnp.int32)
    mapped = jax.vmap(jax.vmap(_equalized_channel))(channels)
    return jnp.moveaxis(mapped, 1, -1).astype(jnp.float32)


def _equalized_channel(levels: Int[Array, "h w"]) -> Int[Array, "h w"]:
    histogram = jnp.zeros(256, jnp.int32).at[levels.ravel()].add(1)
    step = (levels.size - histogram[levels.max()]) // 255
    below = jnp.cumsum(histogram) - histogram
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table[levels], levels)


def resize(
    images: UInt8[Array, "b h w 3"],
    sizes: Int[Array, "b 2"],
    image_size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
) -> UInt8[Array, "b height width 3"]:
    """Every image at one (height, width), within a grey level of `Preprocess.resize`.

    Images lie in the upper left corner of their canvas; `sizes` are their heights and widths there,
    in pixels.
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


def runs_on_host(config: AugmentationConfig) -> bool:
    """Whether images are resized and augmented before they travel to the devices."""
    return config.on == "host" or (config.on == "auto" and jax.default_backend() == "cpu")


def make_input(
    config: AugmentationConfig,
    image_size: tuple[int, int],
    mesh: Mesh,
    interpolation: Interpolation = "bilinear",
) -> Callable[[Batch], tuple[Array, Array]]:
    """Makes a process's share into images [b, h, w, 3] uint8 and labels [b], sharded over a mesh.

    `image_size` is the height and width that the model takes.
    """
    divided = NamedSharding(mesh, P(AXIS))
    on_host, prepare = runs_on_host(config), make_prepare(config, image_size, mesh, interpolation)

    def place(batch: Batch) -> tuple[Array, Array]:
        images, sizes, operations, labels = (
            jax.make_array_from_process_local_data(divided, array) for array in batch[:4]
        )
        return images if on_host else prepare(images, sizes, operations), labels

    return place


def make_prepare(
    config: AugmentationConfig,
    image_size: tuple[int, int],
    mesh: Mesh,
    interpolation: Interpolation = "bilinear",
) -> Callable[[Array, Array, Array], Array]:
    """What the device does to images [b, h, w, 3] of sizes [b, 2] and operations [b, k]."""

    def prepare(
        images: UInt8[Array, "b h w 3"],
        sizes: Int[Array, "b 2"],
        operations: Integer[Array, "b k"],
    ) -> UInt8[Array, "b height width 3"]:
        resized = resize(images, sizes, image_size, interpolation)
        return rand_augment(resized, operations, config.magnitude)

    return jax.jit(jax.shard_map(prepare, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS)))
