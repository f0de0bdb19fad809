"""Twelve steps of the official training, in float64: losses, learning rates, every final weight."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_skip as torch
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from one_program import describe
from recipe import GOLDEN, recipe_images, recipe_state
from reference import in_float64
from trajectory import (
    LOSS_AND_MINER,
    MODEL,
    RECIPES,
    SHAPES,
    SMALL,
    batch,
    padded,
    recipe_model,
    weights_of,
)

from mixvpr_jax.conversion import to_state_dict
from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.errors import InputError
from mixvpr_jax.losses import multi_similarity
from mixvpr_jax.losses.mining import multi_similarity_miner
from mixvpr_jax.models.config import GeMConfig
from mixvpr_jax.training.config import OptimizerConfig, StartConfig, TrainConfig
from mixvpr_jax.training.step import (
    create_state,
    learning_rate_schedule,
    make_optimizer,
    make_step,
    parameter_groups,
)


# What a step does is the same on any number of devices: test_parallel.py holds it to that.
@pytest.mark.parametrize(("name", "devices"), [("sgd", 1), ("adamw", 8), ("warmup", 8)])
def test_official_trajectory(name, devices, parity):
    golden = np.load(GOLDEN / f"trajectory_{name}.npz")
    with in_float64():
        model = recipe_model()
        optimizer = make_optimizer(RECIPES[name], steps_per_epoch=4)
        mesh = data_mesh(jax.devices()[:devices])
        step = make_step(
            model, optimizer, multi_similarity, multi_similarity_miner, mesh, layers_to_freeze=2
        )
        training = nnx.clone(model)
        training.train()
        first = np.asarray(describe(training, batch(0)[0]))
        # On its devices from the start; each step from the second on would otherwise compile again.
        state = jax.device_put(create_state(model, optimizer), NamedSharding(mesh, P()))
        losses, accuracies = [], []
        for index in range(12):
            given = state
            state, metrics = step(given, *batch(index))
            losses.append(float(metrics["loss"]))
            accuracies.append(float(metrics["batch_accuracy"]))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))  # donated
        schedule = learning_rate_schedule(RECIPES[name], 4)
        rates = [float(schedule(index)) for index in range(12)]
        nnx.update(model, state.params, state.statistics)
        probe = recipe_images(77, (3, 3, 64, 64)).transpose(0, 2, 3, 1)
        descriptors = np.asarray(describe(model, jnp.asarray(probe)))
        final = to_state_dict(model)
    row = "twelve steps of SGD and AdamW, float64: {}".format
    parity(row("losses"), np.abs(np.array(losses) - golden["loss"]).max(), 1e-8)
    assert np.allclose(accuracies, golden["batch_accuracy"], atol=1e-12)
    assert np.allclose(rates, golden["learning_rate"], rtol=1e-12)
    assert np.abs(first - golden["first_descriptors"]).max() <= 1e-12
    parity(row("descriptors"), np.abs(descriptors - golden["probe_descriptors"]).max(), 1e-8)
    start = recipe_state(SHAPES, "float64")
    for entry, array in final.items():
        if entry.endswith("num_batches_tracked"):
            continue
        norm, total = golden[f"norm/{entry}"]
        assert abs(np.linalg.norm(array) - norm) <= 1e-8 * max(norm, 1), entry
        assert abs(array.sum() - total) <= 1e-8 * max(norm, 1), entry
        if f"value/{entry}" in golden:
            parity(row("weights"), np.abs(array - golden[f"value/{entry}"]).max(), 1e-8)
        frozen = entry.split(".")[2] in ("conv1", "bn1", "layer1", "layer2")
        if frozen and "running" not in entry:
            assert np.array_equal(array, start[entry]), entry
        else:
            assert not np.array_equal(array, start[entry]), entry


@pytest.mark.parametrize("layers, count", [(None, 0), (0, 3), (1, 15), (2, 30), (3, 45)])
def test_freezing_by_stage(layers, count):
    with in_float64():
        params = nnx.to_pure_dict(nnx.state(recipe_model(), nnx.Param))
    kinds = jax.tree.leaves(parameter_groups(params, layers))
    assert kinds.count("frozen") == count
    assert kinds.count("trained") == len(kinds) - count


def test_wrong_settings_are_named():
    with pytest.raises(InputError, match="unknown name 'adam'; closest: adamw"):
        OptimizerConfig("adam")
    for wrong in (-1, 41, 1.5):
        with pytest.raises(InputError, match="layers_to_freeze: expected (None|int) .*, found"):
            OptimizerConfig(layers_to_freeze=wrong)
    for arch, most in (("resnet18", 3), ("dinov2_vits14", 12)):
        model = StartConfig(arch, (), GeMConfig(), (56, 56))
        line = f"layers_to_freeze: expected None or 0 to {most} with {arch}, found {most + 1}"
        with pytest.raises(InputError, match=line):
            TrainConfig(model, optimizer=OptimizerConfig(layers_to_freeze=most + 1))


def norm_of(arrays):
    """The L2 norm of all of them together."""
    return np.sqrt(sum(np.square(array).sum() for array in arrays))


@pytest.mark.parametrize(("devices", "count"), [(1, 16), (2, 11)])
def test_gradient_caching_gives_the_same_gradient(devices, count):
    """With the running statistics held still; otherwise each chunk has statistics of its own."""
    config = OptimizerConfig("sgd", 0.5, 0.0, 0.0, warmup_steps=1, layers_to_freeze=None)
    optimizer = make_optimizer(config, steps_per_epoch=4)  # the update is half the gradient
    options, found = {"freeze_batch_stats": True}, []
    with in_float64():
        pair, mesh = LOSS_AND_MINER["multi_similarity"], data_mesh(jax.devices()[:devices])
        for chunks in (1, 4):
            model = recipe_model(SMALL)
            before = weights_of(create_state(model, optimizer))
            step = make_step(model, optimizer, *pair, mesh, grad_cache_chunks=chunks, **options)
            state, metrics = step(create_state(model, optimizer), *padded(batch(3, SMALL), count))
            after = weights_of(state)
            gradient = {name: 2 * (before[name] - after[name]) for name in before}
            found.append((gradient, float(metrics["loss"])))
            params = [name for name in after if not name.endswith((".mean", ".var"))]
            norms = [norm_of(arrays[name] for name in params) for arrays in (before, after)]
            assert float(metrics["gradient_norm"]) == pytest.approx(norm_of(gradient.values()))
            assert float(metrics["parameter_norm"]) == pytest.approx(norms[1], rel=1e-12)
            assert norms[0] != pytest.approx(norms[1], rel=1e-9)
    (plain, plain_loss), (cached, cached_loss) = found
    print(max(np.abs(plain[name] - cached[name]).max() for name in plain))
    assert plain_loss == pytest.approx(cached_loss, abs=1e-12)
    for entry, array in plain.items():
        assert np.abs(array - cached[entry]).max() <= 1e-10, entry
        assert array.any() != entry.endswith((".mean", ".var")), entry


def test_chunks_move_the_statistics_in_turn():
    optimizer = make_optimizer(OptimizerConfig(), steps_per_epoch=4)
    with in_float64():
        model, mesh = recipe_model(SMALL), data_mesh(jax.devices()[:1])
        images, labels = batch(0, SMALL)
        expected = nnx.clone(model)
        expected.train()
        for part in range(2):
            describe(expected, images[8 * part : 8 * part + 8])
        pair = LOSS_AND_MINER["multi_similarity"]
        step = make_step(model, optimizer, *pair, mesh, grad_cache_chunks=2)
        state, _ = step(create_state(model, optimizer), images, labels)
        for path, leaf in nnx.to_flat_state(state.statistics):
            wanted = dict(nnx.to_flat_state(nnx.state(expected, nnx.BatchStat)))[path]
            assert np.abs(leaf[...] - wanted[...]).max() <= 1e-12, path


@pytest.mark.parametrize(
    ("devices", "options"), [(1, {}), (2, {}), (2, {"batch_stats_per_device": True})]
)
def test_chunks_of_padding_leave_the_statistics(devices, options):
    """Five real images of sixteen, in four chunks a device: of one device's, one is padding."""
    parts = {1: (slice(0, 4), slice(4, 5)), 2: (slice(0, 2), slice(2, 4), slice(4, 5))}[devices]
    with in_float64():
        (images, labels), model = padded(batch(0, SMALL), 5), recipe_model(SMALL)
        expected = nnx.clone(model)
        expected.train()
        for part in parts:
            describe(expected, images[part])
        pair, mesh = LOSS_AND_MINER["multi_similarity"], data_mesh(jax.devices()[:devices])
        optimizer = make_optimizer(OptimizerConfig(), steps_per_epoch=4)
        step = make_step(model, optimizer, *pair, mesh, grad_cache_chunks=4, **options)
        state, _ = step(create_state(model, optimizer), images, labels)
        wanted = dict(nnx.to_flat_state(nnx.state(expected, nnx.BatchStat)))
        for path, leaf in nnx.to_flat_state(state.statistics):
            assert np.abs(leaf[...] - wanted[path][...]).max() <= 1e-12, path


def test_bfloat16_keeps_float32_where_it_matters():
    pair = LOSS_AND_MINER["multi_similarity"]
    optimizer, losses = make_optimizer(OptimizerConfig(), steps_per_epoch=4), []
    images, labels = batch(0, SMALL)
    for dtype in ("float32", "bfloat16"):
        model = recipe_model(replace(SMALL, dtype=dtype))
        step = make_step(model, optimizer, *pair, data_mesh())
        state = create_state(model, optimizer)
        state, metrics = step(state, images.astype("float32"), labels)
        kinds = {str(leaf.dtype) for leaf in jax.tree.leaves((state, metrics))}
        assert kinds == {"float32", "int32"}  # integers count steps
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("name", ["sgd", "adamw"])  # "warmup" is "sgd" at rates given to it here
def test_the_reference_of_training_takes_the_official_steps(name):
    from reference_training import ReferenceTraining, official_model

    golden = np.load(GOLDEN / f"trajectory_{name}.npz")
    model = official_model(MODEL).double()
    state = recipe_state(SHAPES, "float64")
    model.load_state_dict({n: torch.tensor(a) for n, a in state.items()})
    training = ReferenceTraining(model, RECIPES[name])
    losses = []
    for index in range(12):
        with in_float64():
            images, labels = (torch.from_numpy(np.array(array)) for array in batch(index))
        rate = float(golden["learning_rate"][index])
        losses.append(float(training.step(images.permute(0, 3, 1, 2), labels, rate)))
    assert np.abs(np.array(losses) - golden["loss"]).max() <= 1e-8


def test_what_is_frozen_is_not_differentiated():
    pair = LOSS_AND_MINER["multi_similarity"]
    model = recipe_model(replace(MODEL, dtype="float32"))
    optimizer, counted = make_optimizer(OptimizerConfig(), steps_per_epoch=4), []
    images = jnp.zeros((16, 64, 64, 3))
    for layers in (None, 2):
        step = make_step(model, optimizer, *pair, data_mesh(), layers_to_freeze=layers)
        state = create_state(model, optimizer)
        lowered = step.lower(state, images, jnp.zeros(16, "int32"))
        counted.append(lowered.cost_analysis()["flops"])
    assert counted[1] < 0.7 * counted[0]
