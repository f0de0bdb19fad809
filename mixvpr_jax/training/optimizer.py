"""The official optimizers and their learning rate, on optax: PyTorch's updates to rounding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mixvpr_jax.training.config import OptimizerConfig

NEVER = 2**31 - 1  # the last step that an int32 counts


def learning_rate_schedule(config: OptimizerConfig, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate of each step, from 0.

    Over `warmup_steps` it rises to its full height, whatever milestones pass meanwhile; from then
    on it is multiplied by `factor` at the start of each epoch in `milestones`. That is what the
    official loop does: its warm-up sets the rate at every step, and so overwrites what PyTorch's
    MultiStepLR made of it before (main.py of amaralibey/MixVPR).

    Args:
        config: The optimizer's settings.
        steps_per_epoch: Steps of an epoch, its last short batch included.
    """
    falls = [epoch * steps_per_epoch for epoch in config.milestones]
    falls = [min(step, NEVER) for step in falls if step >= config.warmup_steps]
    starts = jnp.asarray(falls, jnp.int32)

    def schedule(step: Any) -> jax.Array:
        exact = jnp.asarray(step, jnp.result_type(float))  # float64 in float64
        risen = jnp.minimum((exact + 1) / max(config.warmup_steps, 1), 1)
        return config.learning_rate * risen * config.factor ** jnp.sum(step >= starts)

    return schedule


def make_optimizer(
    config: OptimizerConfig, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
    """SGD with coupled weight decay, or AdamW; frozen parameters get neither update nor decay.

    Weight decay falls on every trained parameter, biases and norms included, as in the official
    training: with SGD it is added to the gradient before momentum, with AdamW it is decoupled.

    Args:
        config: The optimizer's settings.
        steps_per_epoch: Steps of an epoch, for the schedule.
    """
    schedule = learning_rate_schedule(config, steps_per_epoch)
    if config.name == "sgd":
        trained = optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(schedule, momentum=config.momentum),
        )
    else:
        trained = optax.adamw(schedule, weight_decay=config.weight_decay)
    return optax.partition(
        {"trained": trained, "frozen": optax.set_to_zero()},
        lambda params: parameter_groups(params, config.layers_to_freeze),
    )


def parameter_groups(params: Any, layers_to_freeze: int | None) -> Any:
    """Says "trained" or "frozen" for each leaf of a tree of parameters named as the model's.

    Args:
        params: Parameters below `backbone` and `aggregator`.
        layers_to_freeze: The backbone's last frozen stage, with all before it; 0 is the
            stem alone, None freezes nothing (models/backbones/resnet.py of amaralibey/MixVPR).
    """
    stages = [] if layers_to_freeze is None else range(1, layers_to_freeze + 1)
    frozen = {"conv1", "bn1", *(f"layer{stage}" for stage in stages)}

    def group(path: tuple[Any, ...], _: Any) -> str:
        names = [str(getattr(part, "key", getattr(part, "name", part))) for part in path]
        in_backbone = layers_to_freeze is not None and names[0] == "backbone"
        return "frozen" if in_backbone and names[1] in frozen else "trained"

    return jax.tree_util.tree_map_with_path(group, params)
