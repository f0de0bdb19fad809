"""The run of the golden trajectories: model, weights and batches, shared by tests."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from flax import nnx
from random_models import drawn
from recipe import official_shapes, recipe_state, trajectory_batch

from mixvpr_jax.conversion import build_model
from mixvpr_jax.conversion.key_table import to_flax
from mixvpr_jax.losses import multi_similarity, triplet_margin
from mixvpr_jax.losses.mining import multi_similarity_miner
from mixvpr_jax.models.config import MixVPRConfig, ModelConfig
from mixvpr_jax.models.layers import param_dtype
from mixvpr_jax.training.config import OptimizerConfig
from mixvpr_jax.training.step import make_optimizer

MODEL = ModelConfig("resnet18", (4,), MixVPRConfig(16, 2, 1, 4), (64, 64), "float64")
SHAPES = {
    name: [16 if size == 32 and "mix" in name else size for size in shape]
    for name, shape in official_shapes()["resnet18_mixvpr_64"].items()
}
# Of the golden files trajectory_<name>.npz, at four steps an epoch.
RECIPES = {
    "sgd": OptimizerConfig("sgd", 0.05, warmup_steps=5, milestones=(2, 3)),
    "adamw": OptimizerConfig("adamw", 2e-4, warmup_steps=5, milestones=(2, 3)),
    "warmup": OptimizerConfig("sgd", 0.05, warmup_steps=6, milestones=(1, 2)),
}


# A stage fewer, and images of a sixteenth: XLA's convolutions take their time in float64.
SMALL = replace(MODEL, layers_to_crop=(3, 4), image_size=(16, 16))
SMALLER_SIZES = {"channel_proj": {256: 128}, "mix": {16: 4}, "row_proj": {16: 4}}
SMALL_SHAPES = {
    name: [SMALLER_SIZES.get(name.split(".")[1], {}).get(size, size) for size in shape]
    for name, shape in SHAPES.items()
    if "layer3" not in name
}


def batch(step, config=MODEL):
    """Images, or as large a corner of them as a model takes, and labels."""
    (images, labels), (height, width) = trajectory_batch(step), config.image_size
    images = images.transpose(0, 2, 3, 1)[:, :height, :width]
    return jnp.asarray(images), jnp.asarray(labels, "int32")


def recipe_model(config=MODEL):
    shapes = SHAPES if config.layers_to_crop == (4,) else SMALL_SHAPES
    state = recipe_state(shapes, param_dtype(config.dtype))
    return build_model(
        config, to_flax({n: a for n, a in state.items() if not n.endswith("num_batches_tracked")})
    )


LOSS_AND_MINER = {
    "multi_similarity": (multi_similarity, multi_similarity_miner),
    "triplet_margin": (triplet_margin, None),
}


def start():
    """A small model and an optimizer at its full rate."""
    return drawn(SMALL), make_optimizer(OptimizerConfig(warmup_steps=1), steps_per_epoch=4)


def padded(full, count):
    """A batch of which only so many images are real: the others are padding."""
    images, labels = full
    real = np.arange(len(labels)) < count
    return (
        jnp.where(real[:, None, None, None], images, jnp.full_like(images, 9)),
        jnp.where(real, labels, jnp.full_like(labels, -1)),
    )


def weights_of(state):
    """Parameters and statistics of a state by name, as arrays."""
    flat = {}
    for part in (state.params, state.statistics):
        for path, leaf in nnx.to_flat_state(part):
            flat[".".join(map(str, path))] = np.asarray(leaf[...])
    return flat
