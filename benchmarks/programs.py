"""The main programs, lowered for devices that need not be there: nothing is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixvpr_jax.evaluation.describe import normalized
from mixvpr_jax.evaluation.search import better
from mixvpr_jax.losses import LOSSES
from mixvpr_jax.losses.mining import MINERS
from mixvpr_jax.models.backbones import BACKBONES
from mixvpr_jax.models.config import Dtype, GeMConfig, ModelConfig
from mixvpr_jax.models.vpr import empty_model, fold
from mixvpr_jax.released import RELEASED
from mixvpr_jax.training.config import TrainConfig
from mixvpr_jax.training.recipes import list_recipes, load_recipe
from mixvpr_jax.training.step import TrainState, create_state, make_optimizer, make_step

QUERIES, ROWS, KEPT = 512, 131_072, 64


def model_config(name: str, dtype: Dtype) -> ModelConfig:
    """The model of a recipe or of released weights, or a backbone with GeM."""
    if name in BACKBONES:
        size = BACKBONES[name].nearest_size(320, 320)
        return ModelConfig(name, (), GeMConfig(), size, dtype)
    is_recipe = name in list_recipes()
    config = load_recipe(name)[0].model.architecture if is_recipe else RELEASED[name].config
    return replace(config, dtype=dtype)


def describing(config: ModelConfig, mesh: Mesh, images: int) -> Any:
    """Describes images of uint8, as `compile_encoder` does."""
    graph, state = nnx.split(fold(empty_model(config), mesh.devices.flat[0].platform))
    given = jax.ShapeDtypeStruct((images, *config.image_size, 3), jnp.uint8)
    describe = jax.jit(lambda state, images: nnx.merge(graph, state)(normalized(images)))
    return describe.lower(*_placed((state, given), mesh))


def training(
    config: TrainConfig, mesh: Mesh, images: int, **options: Any
) -> tuple[Any, TrainState]:
    """A step on a batch, which is padded to fit the devices, and the shapes of its state.

    The options are those of `make_step`, beside the recipe's.
    """
    model = empty_model(config.model.architecture)
    optimizer = make_optimizer(config.optimizer, steps_per_epoch=520)
    step: Any = make_step(
        model,
        optimizer,
        LOSSES[config.loss],
        MINERS[config.miner] if config.miner else None,
        mesh,
        layers_to_freeze=config.optimizer.layers_to_freeze,
        batch_stats_per_device=config.batch_stats_per_device,
        remat_blocks=config.remat_blocks,
        **options,
    )
    state = jax.eval_shape(lambda: create_state(model, optimizer))
    images = -(-images // mesh.size) * mesh.size
    batch = (
        jax.ShapeDtypeStruct((images, *config.image_size, 3), jnp.uint8),
        jax.ShapeDtypeStruct((images,), jnp.int32),
    )
    return step.lower(_placed(state, mesh), *_placed(batch, mesh, *mesh.axis_names)), state


def searching(mesh: Mesh, width: int = 4096) -> Any:
    """The best KEPT of each of QUERIES, in a chunk of ROWS of the database."""
    floats = [(mesh.size, QUERIES, KEPT), (QUERIES, width), (ROWS, width), (ROWS,)]
    scores, queries, chunk, norms = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in floats)
    indices = jax.ShapeDtypeStruct(scores.shape, jnp.int32)
    first = jax.ShapeDtypeStruct((), jnp.int32)
    given = _placed((scores, indices, queries, chunk, norms, first), mesh)
    return better.lower(*given, mesh, None)


def _placed(tree: Any, mesh: Mesh, *axes: str) -> Any:
    """Shapes of arrays that lie on a mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
