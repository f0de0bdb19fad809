"""The official optimizers and learning rate schedule on optax: PyTorch's updates to rounding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mixvpr_jax.training.config import OptimizerConfig

NEVER = 2**31 - 1  # the last step that an int32 counts


def learning_rate_schedule(config: OptimizerConfig, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate of each step, counted from 0.

    Milestones during warm-up have no effect: the official loop sets the rate at every step of
    warm-up, which overwrites what PyTorch's MultiStepLR did (main.py of amaralibey/MixVPR).
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

    As in the official training, biases and norms decay too.
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
    """Labels each leaf "trained" or "frozen", of parameters below `backbone` and `aggregator`.

    Args:
        params: A tree named as the model's parameters.
        layers_to_freeze: See `OptimizerConfig`.
    """
    stages = [] if layers_to_freeze is None else range(1, layers_to_freeze + 1)
    frozen = {"conv1", "bn1", *(f"layer{stage}" for stage in stages)}

    def group(path: tuple[Any, ...], _: Any) -> str:
        names = [str(getattr(part, "key", getattr(part, "name", part))) for part in path]
        in_backbone = layers_to_freeze is not None and names[0] == "backbone"
        return "frozen" if in_backbone and names[1] in frozen else "trained"

    return jax.tree_util.tree_map_with_path(group, params)
