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
    *,
    freeze_statistics: bool = False,
    chunks: int = 1,
) -> Callable[[TrainState, Array, Array], tuple[TrainState, Metrics]]:
    """The compiled step: (state, images, labels) → (state, metrics); the old state is donated.

    Args:
        model: What is trained; its weights are in the state, not here.
        optimizer: Of `make_optimizer`.
        loss: One of `mixvpr_jax.losses`.
        miner: One of `mixvpr_jax.mining`, or None for every pair.
        mesh: Of `data_mesh`; the batch is divided evenly over it.
        freeze_statistics: Normalise by the running statistics and hold them still.
        chunks: Into how many parts a device divides its images, to save memory (gradient caching,
            Gao et al., 2021): described without gradient, all in one loss, then each described
            again for its gradient. The gradient is the same, but that BatchNorm's statistics are
            those of a part.

    Returns:
        A function of the state, images [b, h, w, 3] and labels [b]; a negative label marks padding,
        which changes neither loss nor gradient nor statistics. Its metrics are `loss` and
        `batch_accuracy`.
    """
    training = nnx.view(model, use_running_average=freeze_statistics, axis_name=AXIS)
    graph, _, _ = nnx.split(training, nnx.Param, nnx.BatchStat)
    describe = partial(_describe, graph)
    objective = partial(_objective, loss, miner)

    def device_step(state: TrainState, images: Array, labels: Array) -> tuple[TrainState, Metrics]:
        differentiate = _gradient if chunks == 1 else partial(_cached_gradient, chunks)
        gradient, statistics, metrics = differentiate(describe, objective, state, images, labels)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, statistics, optimizer_state, state.step + 1), metrics

    program = jax.shard_map(
        device_step, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=(P(), P())
    )
    return jax.jit(program, donate_argnums=0)


def _describe(
    graph: nnx.GraphDef,
    params: Any,
    statistics: Any,
    images: Float[Array, "b h w 3"],
    labels: Int[Array, " b"],
) -> tuple[Float[Array, "b d"], Any]:
    """Descriptors of a device's own images, and the running statistics after them."""
    model = nnx.merge(graph, params, statistics, copy=True)
    return model(images, labels >= 0), nnx.state(model, nnx.BatchStat)


def _objective(
    loss: Loss, miner: Miner | None, descriptors: Float[Array, "b d"], labels: Int[Array, " b"]
) -> tuple[Array, Metrics]:
    """Loss and metrics of the whole batch, from each device's own descriptors."""
    everything = lax.all_gather(descriptors, AXIS, tiled=True)
    all_labels = lax.all_gather(labels, AXIS, tiled=True)
    rows = lax.axis_index(AXIS) * len(labels) + jnp.arange(len(labels), dtype=jnp.int32)
    mined = miner(everything, all_labels, rows=rows) if miner else None
    value = loss(everything, all_labels, mined, rows=rows, axis_name=AXIS)
    anchors = mined_anchors(all_pairs(all_labels, rows) if mined is None else mined)
    found, images = (total(mask.sum(), AXIS) for mask in (anchors, labels >= 0))
    dtype = descriptors.dtype
    accuracy = 1 - found.astype(dtype) / jnp.maximum(images, 1).astype(dtype)
    return value, {"loss": value, "batch_accuracy": accuracy}


def _gradient(
    describe: Callable, objective: Callable, state: TrainState, images: Array, labels: Array
) -> tuple[Any, Any, Metrics]:
    """Gradient of the parameters, running statistics and metrics."""

    def whole(params: Any) -> tuple[Array, tuple[Any, Metrics]]:
        descriptors, statistics = describe(params, state.statistics, images, labels)
        value, metrics = objective(descriptors, labels)
        return value, (statistics, metrics)

    gradient, (statistics, metrics) = jax.grad(whole, has_aux=True)(state.params)
    return gradient, statistics, metrics


def _cached_gradient(
    chunks: int,
    describe: Callable,
    objective: Callable,
    state: TrainState,
    images: Array,
    labels: Array,
) -> tuple[Any, Any, Metrics]:
    """The same, a chunk of the images at a time."""
    parts = tuple(array.reshape(chunks, -1, *array.shape[1:]) for array in (images, labels))
    # Made each device's own, so that gradients are summed over devices once, not once a chunk.
    params = lax.pcast(state.params, AXIS, to="varying")
    cached = lax.map(lambda part: describe(params, state.statistics, *part)[0], parts)
    objective_of = jax.grad(objective, has_aux=True)
    toward, metrics = objective_of(cached.reshape(len(labels), -1), labels)

    def add(carry: tuple[Any, Any], part: tuple[Array, ...]) -> tuple[tuple[Any, Any], None]:
        gradient, statistics = carry
        *own, direction = part
        _, pull, statistics = jax.vjp(
            lambda params: describe(params, statistics, *own), params, has_aux=True
        )
        return (jax.tree.map(jnp.add, gradient, pull(direction)[0]), statistics), None

    start = jax.tree.map(jnp.zeros_like, params), state.statistics
    (gradient, statistics), _ = lax.scan(add, start, (*parts, toward.reshape(cached.shape)))
    return lax.psum(gradient, AXIS), statistics, metrics
