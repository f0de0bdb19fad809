"""One training step: a pure function of state and batch, one program on every device.

Each device describes its share of the images; descriptors and labels are gathered, so that mining
and loss see the whole batch, of which each device computes the rows of its own anchors. BatchNorm's
statistics are those of the whole batch. Gradients are summed over devices by differentiation
itself: parameters are the same everywhere, and what each device's use of them contributes adds up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from mixvpr_jax.losses import Loss
from mixvpr_jax.masked import total
from mixvpr_jax.mining import Miner, all_pairs, mined_anchors
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.parallel import AXIS

Metrics = dict[str, Array]


@struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
        params: The model's parameters.
        statistics: BatchNorm's running statistics.
        optimizer: The optimizer's state.
        step: How many steps were taken.
    """

    params: Any
    statistics: Any
    optimizer: Any
    step: Int[Array, ""]


def create_state(model: VPRModel, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step. It shares the model's arrays; a step consumes them."""
    params, statistics = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    return TrainState(params, statistics, optimizer.init(params), jnp.zeros((), jnp.int32))


def make_step(
    model: VPRModel,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    miner: Miner | None,
    mesh: Mesh,
) -> Callable[[TrainState, Array, Array], tuple[TrainState, Metrics]]:
    """The compiled step: (state, images, labels) → (state, metrics); the old state is donated.

    Args:
        model: What is trained; its weights are in the state, not here.
        optimizer: Of `make_optimizer`.
        loss: One of `mixvpr_jax.losses`.
        miner: One of `mixvpr_jax.mining`, or None for every pair.
        mesh: Of `data_mesh`; the batch is divided evenly over it.

    Returns:
        A function of the state, images [b, h, w, 3] and labels [b]; a negative label marks padding,
        which changes neither loss nor gradient nor statistics. Its metrics are `loss` and
        `batch_accuracy`.
    """
    training = nnx.view(model, use_running_average=False, axis_name=AXIS)
    graph, _, _ = nnx.split(training, nnx.Param, nnx.BatchStat)
    forward = partial(_forward, graph, loss, miner)

    def device_step(state: TrainState, images: Array, labels: Array) -> tuple[TrainState, Metrics]:
        objective = jax.value_and_grad(forward, has_aux=True)
        (value, (statistics, accuracy)), gradient = objective(
            state.params, state.statistics, images, labels
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        after = TrainState(params, statistics, optimizer_state, state.step + 1)
        return after, {"loss": value, "batch_accuracy": accuracy}

    program = jax.shard_map(
        device_step, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=(P(), P())
    )
    return jax.jit(program, donate_argnums=0)


def _forward(
    graph: nnx.GraphDef,
    loss: Loss,
    miner: Miner | None,
    params: Any,
    statistics: Any,
    images: Float[Array, "b h w 3"],
    labels: Int[Array, " b"],
) -> tuple[Array, tuple[Any, Array]]:
    """Loss of the whole batch, with the statistics after it and the batch accuracy."""
    model = nnx.merge(graph, params, statistics, copy=True)
    descriptors = lax.all_gather(model(images, labels >= 0), AXIS, tiled=True)
    all_labels = lax.all_gather(labels, AXIS, tiled=True)
    rows = lax.axis_index(AXIS) * len(labels) + jnp.arange(len(labels), dtype=jnp.int32)
    mined = miner(descriptors, all_labels, rows=rows) if miner else None
    value = loss(descriptors, all_labels, mined, rows=rows, axis_name=AXIS)
    anchors = mined_anchors(all_pairs(all_labels, rows) if mined is None else mined)
    dtype = descriptors.dtype
    counts = anchors.sum().astype(dtype), (labels >= 0).sum().astype(dtype)
    accuracy = 1 - total(counts[0], AXIS) / jnp.maximum(total(counts[1], AXIS), 1)
    return value, (nnx.state(model, nnx.BatchStat), accuracy)
