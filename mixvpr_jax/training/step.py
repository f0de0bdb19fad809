"""The training step, a pure function of state and batch, and its optimizer.

Descriptors and labels are all-gathered, so mining and loss see the global batch, and each device
computes the rows of its own anchors. Each differentiates its share of the loss by its own copy of
the parameters, and the gradients are summed: right under `jax.shard_map`, which tracks what is
replicated, and under `jax.pmap`, which does not.
"""

from __future__ import annotations

import math
import os
import re
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
from jaxtyping import Array, Float, Int, Num

from mixvpr_jax.distributed import AXIS
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.describe import normalized_to_rounding
from mixvpr_jax.losses import Loss
from mixvpr_jax.losses.mining import Miner, mined_anchors
from mixvpr_jax.losses.reductions import total
from mixvpr_jax.models.normalization import tell_padding
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.training.config import OptimizerConfig

Metrics = dict[str, Array]
NEVER = 2**31 - 1  # the last step that an int32 counts
# By default, XLA sums all gradients at once, after the last product. In pieces of 4 MB, most of
# them travel while the backward pass computes; on TPUs by SparseCores, which a v5e lacks
# (benchmarks/tried.md).
_SPARSE_CORES = {
    "xla_jf_crs_combiner_threshold_in_bytes": 4 << 20,
    "xla_tpu_enable_sparse_core_collective_offload_all_reduce": True,
    "xla_tpu_use_tc_device_shape_on_sc": True,
    "xla_sc_disable_megacore_partitioning": True,
}
_ON_SEVERAL = {
    "gpu": {"xla_gpu_all_reduce_combine_threshold_bytes": 4 << 20},
    **dict.fromkeys(("TPU v5", "TPU v5p", "TPU v6 lite", "TPU v6e"), _SPARSE_CORES),
}


@struct.dataclass
class TrainState:
    """All that a step changes: arrays, or what describes them while JAX lowers the step."""

    params: Any
    statistics: Any  # batch_stats, by their name on disk
    optimizer: Any
    step: Any  # an int32


def create_state(model: VPRModel, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; it shares the model's arrays, which a step donates."""
    params, statistics = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    return TrainState(params, statistics, optimizer.init(params), jnp.zeros((), jnp.int32))


def make_step(
    model: VPRModel,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    miner: Miner | None,
    mesh: Mesh,
    **options: Any,
) -> Callable[[TrainState, Array, Array], tuple[TrainState, Metrics]]:
    """The compiled step over a mesh, with the options of `make_device_step`.

    Returns:
        A function (state, images, labels) → (state, metrics). The state is donated; images
        [b, h, w, 3] are normalised or uint8; a negative label of [b] marks padding. Metrics are
        `loss`, `batch_accuracy`, `images` (without padding), and the L2 norms `gradient_norm` and
        `parameter_norm` (after the step).
    """
    options.setdefault("platform", mesh.devices.flat[0].platform)
    program = jax.shard_map(
        make_device_step(model, optimizer, loss, miner, **options),
        mesh=mesh,
        in_specs=(P(), P(AXIS), P(AXIS)),
        out_specs=(P(), P()),
    )
    return jax.jit(program, donate_argnums=0, compiler_options=compiler_options(mesh))


def compiler_options(mesh: Mesh) -> dict[str, Any]:
    """Options that let the gradients' sum overlap the backward pass, on several devices.

    Those that XLA_FLAGS or LIBTPU_INIT_ARGS name are left out: the user has chosen them.
    """
    device = mesh.devices.flat[0]
    kind = "gpu" if device.platform in ("gpu", "cuda") else device.device_kind
    options = _ON_SEVERAL.get(kind, {}) if mesh.size > 1 else {}
    flags = "".join(os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"))
    return {name: value for name, value in options.items() if name not in flags}


def make_device_step(
    model: VPRModel,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    miner: Miner | None,
    *,
    freeze_batch_stats: bool = False,
    batch_stats_per_device: bool = False,
    layers_to_freeze: int | None = None,
    grad_cache_chunks: int = 1,
    remat_blocks: bool = False,
    platform: str | None = None,
) -> Callable[[TrainState, Array, Array], tuple[TrainState, Metrics]]:
    """The step as each device runs it on its own images, inside the axis `data`.

    The options are those of `TrainConfig` and `OptimizerConfig`; `platform` (cpu, tpu, …) takes
    what is fast there. Gradient caching (Gao et al., 2021) describes all images without gradient
    for one loss, then each chunk for its gradient.
    """
    training = nnx.view(
        model,
        raise_if_not_found=False,  # there may be no BatchNorm, as in transformers
        use_running_average=freeze_batch_stats,
        axis_name=None if batch_stats_per_device else AXIS,
        remat_blocks=remat_blocks,
        platform=platform,
    )
    for path, module in nnx.iter_modules(training):
        untracked = isinstance(module, nnx.BatchNorm) and not freeze_batch_stats
        if untracked or isinstance(module, nnx.Dropout):
            raise InputError(
                f"{'.'.join(map(str, path))}: expected layers that train on several devices, such "
                "as mixvpr_jax.models.normalization.BatchNorm, and no dropout, found flax.nnx."
                f"{type(module).__name__}"
            )
    graph, _, _ = nnx.split(training, nnx.Param, nnx.BatchStat)
    describe = partial(_describe, graph, layers_to_freeze)
    objective = partial(_objective, loss, miner)
    cached = partial(_cached_gradient, grad_cache_chunks)
    differentiate = _gradient if grad_cache_chunks == 1 else cached

    def device_step(state: TrainState, images: Array, labels: Array) -> tuple[TrainState, Metrics]:
        params, statistics = lax.pcast(state.params, AXIS, to="varying"), state.statistics
        if batch_stats_per_device:
            statistics = lax.pcast(statistics, AXIS, to="varying")
        gradient, statistics, metrics = differentiate(
            describe, objective, params, statistics, images, labels
        )
        if batch_stats_per_device:
            statistics = _average_over_devices(statistics, labels)
        groups = parameter_groups(gradient, layers_to_freeze)
        gradient = jax.tree.map(_sum_if_trained, groups, gradient)
        with jax.numpy_dtype_promotion("standard"):  # optax's AdamW mixes types
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        metrics["parameter_norm"] = optax.tree.norm(params)
        return TrainState(params, statistics, optimizer_state, state.step + 1), metrics

    return device_step


def _describe(
    graph: nnx.GraphDef,
    layers_to_freeze: int | None,
    params: Any,
    statistics: Any,
    images: Num[Array, "b h w 3"],
    labels: Int[Array, " b"],
) -> tuple[Float[Array, "b d"], Any]:
    """Descriptors of a device's own images, and the batch_stats after them."""
    if images.dtype == jnp.uint8:
        images = normalized_to_rounding(images)

    def hold(group: str, leaf: Array) -> Array:
        return leaf if group == "trained" else lax.stop_gradient(leaf)

    held = jax.tree.map(hold, parameter_groups(params, layers_to_freeze), params)
    model = nnx.merge(graph, held, statistics, copy=True)
    tell_padding(model, labels >= 0)
    return model(images, labels >= 0), nnx.state(model, nnx.BatchStat)


def _objective(
    loss: Loss, miner: Miner | None, descriptors: Float[Array, "b d"], labels: Int[Array, " b"]
) -> tuple[Array, Metrics]:
    """A device's share of the loss, and metrics of the global batch."""
    everything = lax.all_gather(descriptors, AXIS, tiled=True)
    all_labels = lax.all_gather(labels, AXIS, tiled=True)
    rows = lax.axis_index(AXIS) * len(labels) + jnp.arange(len(labels), dtype=jnp.int32)
    mined = miner(everything, all_labels, rows=rows) if miner else None
    value = loss(everything, all_labels, mined, rows=rows, axis_name=AXIS)
    anchors = labels >= 0 if mined is None else mined_anchors(mined)
    found, images = (total(mask.sum(), AXIS) for mask in (anchors, labels >= 0))
    dtype = descriptors.dtype
    accuracy = 1 - found.astype(dtype) / jnp.maximum(images, 1).astype(dtype)
    share = lax.pcast(value, AXIS, to="varying") / lax.axis_size(AXIS)
    return share, {"loss": value, "batch_accuracy": accuracy, "images": images}


def _sum_if_trained(group: str, leaf: Array) -> Array:
    return lax.psum(leaf, AXIS) if group == "trained" else jnp.zeros(leaf.shape, leaf.dtype)


def _average_over_devices(statistics: Any, labels: Int[Array, " b"]) -> Any:
    """batch_stats averaged over the devices that have any images; if none has, over all."""
    some = (labels >= 0).any()
    count = lax.psum(some.astype(jnp.int32), AXIS)
    weight, count = some | (count == 0), jnp.where(count == 0, lax.axis_size(AXIS), count)
    return jax.tree.map(
        lambda value: lax.psum(jnp.where(weight, value, 0), AXIS) / count.astype(value.dtype),
        statistics,
    )


def _gradient(
    describe: Callable,
    objective: Callable,
    params: Any,
    statistics: Any,
    images: Array,
    labels: Array,
) -> tuple[Any, Any, Metrics]:
    """Gradient of the device's share of the loss, batch_stats and metrics."""

    def whole(params: Any) -> tuple[Array, tuple[Any, Metrics]]:
        descriptors, moved = describe(params, statistics, images, labels)
        value, metrics = objective(descriptors, labels)
        return value, (moved, metrics)

    gradient, (statistics, metrics) = jax.grad(whole, has_aux=True)(params)
    return gradient, statistics, metrics


def _cached_gradient(
    chunks: int,
    describe: Callable,
    objective: Callable,
    params: Any,
    statistics: Any,
    images: Array,
    labels: Array,
) -> tuple[Any, Any, Metrics]:
    """`_gradient`, one chunk of the images at a time."""
    parts = tuple(array.reshape(chunks, -1, *array.shape[1:]) for array in (images, labels))
    cached = lax.map(lambda part: describe(params, statistics, *part)[0], parts)
    toward, metrics = jax.grad(objective, has_aux=True)(cached.reshape(len(labels), -1), labels)

    def add(carry: tuple[Any, Any], part: tuple[Array, ...]) -> tuple[tuple[Any, Any], None]:
        gradient, statistics = carry
        *own, direction = part
        _, pull, statistics = jax.vjp(
            lambda params: describe(params, statistics, *own), params, has_aux=True
        )
        return (jax.tree.map(jnp.add, gradient, pull(direction)[0]), statistics), None

    start = jax.tree.map(jnp.zeros_like, params), statistics
    (gradient, statistics), _ = lax.scan(add, start, (*parts, toward.reshape(cached.shape)))
    return gradient, statistics, metrics


def learning_rate_schedule(config: OptimizerConfig, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate of each step, counted from 0, before `layer_decay`.

    Milestones during warm-up have no effect: there, the official loop (main.py of
    amaralibey/MixVPR) overwrites the rate of PyTorch's MultiStepLR at every step.
    """
    falls = [min(epoch * steps_per_epoch, NEVER) for epoch in config.milestones]
    starts = jnp.asarray([step for step in falls if step >= config.warmup_steps], jnp.int32)

    def schedule(step: Any) -> jax.Array:
        exact = jnp.asarray(step, jnp.result_type(float))  # float64 in float64
        risen = jnp.minimum((exact + 1) / max(config.warmup_steps, 1), 1)
        fallen = jnp.sum(step >= starts, dtype=exact.dtype)
        rate = config.learning_rate * risen * config.factor**fallen
        if config.linear_decay_steps:
            passed = jnp.minimum(exact / config.linear_decay_steps, 1)
            rate *= 1 + (config.linear_decay_factor - 1) * passed
        return rate

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
    if config.layer_decay < 1:
        trained = optax.chain(trained, optax.stateless(partial(_decayed, config.layer_decay)))
    return optax.partition(
        {"trained": trained, "frozen": optax.set_to_zero()},
        lambda params: parameter_groups(params, config.layers_to_freeze),
    )


def parameter_groups(params: Any, layers_to_freeze: int | None) -> Any:
    """Labels each leaf of the parameters "trained" or "frozen"."""
    deepest = -1 if layers_to_freeze is None else layers_to_freeze
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "frozen" if _depth(path) <= deepest else "trained", params
    )


def _decayed(decay: float, updates: Any, _: Any) -> Any:
    """Updates times decay once for each stage or block between a parameter and the aggregator."""
    depths = jax.tree_util.tree_map_with_path(lambda path, _: _depth(path), updates)
    top = max((d for d in jax.tree.leaves(depths) if d < math.inf), default=0) + 1
    return jax.tree.map(lambda depth, leaf: leaf * decay ** max(top - depth, 0), depths, updates)


def _depth(path: tuple[Any, ...]) -> float:
    """The least `layers_to_freeze` that freezes a parameter; infinite outside the backbone.

    The cases are a ResNet's, DINOv2's, and EfficientNet's and Swin's as in the official code.
    """
    part, *names = (str(getattr(one, "key", getattr(one, "name", one))) for one in path)
    if part != "backbone":
        return math.inf
    match names:
        case [stage, *_] if re.fullmatch(r"layer\d", stage):
            return int(stage.removeprefix("layer"))
        case ["blocks", stage, block, *_] if block.isdigit():  # of EfficientNet
            return max(int(stage) - 1, 0)
        case ["blocks", number, *_]:
            return int(number) + 1
        case ["layers", "2", "blocks", number, *_]:
            return int(number) // 5 + 1
        case ["layers", "3", *_] | ["norm" | "conv_head" | "bn2", *_]:
            return math.inf
    return 0  # the stem or the embeddings
