"""What a step is fed: each batch on its devices, resized and augmented there or before."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, Integer, UInt8

from mixvpr_jax.config import AugmentationConfig, Interpolation
from mixvpr_jax.data import device_rand_augment
from mixvpr_jax.data.device_resize import resize
from mixvpr_jax.data.loader import Batch
from mixvpr_jax.parallel import AXIS


def runs_on_host(config: AugmentationConfig) -> bool:
    """Whether images are resized and augmented before they travel to the devices."""
    return config.on == "host" or (config.on == "auto" and jax.default_backend() == "cpu")


def make_input(
    config: AugmentationConfig,
    image_size: tuple[int, int],
    mesh: Mesh,
    interpolation: Interpolation = "bilinear",
) -> Callable[[Batch], tuple[Array, Array]]:
    """A function that gives the images [b, h, w, 3], uint8, and labels [b] of a whole batch.

    Args:
        config: What is done to the images.
        image_size: Height and width that the model takes.
        mesh: What the batch is divided over; each process gives its share.
        interpolation: The filter that resizes images on the device.
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
        return device_rand_augment.rand_augment(resized, operations, config.magnitude)

    return jax.jit(jax.shard_map(prepare, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS)))
