"""Twelve steps of the official training, in float64: losses, learning rates, every final weight."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from recipe import GOLDEN, official_shapes, recipe_images, recipe_state
from reference import in_float64

from mixvpr_jax.config import MixVPRConfig, ModelConfig, OptimizerConfig
from mixvpr_jax.conversion import to_state_dict
from mixvpr_jax.errors import InputError
from mixvpr_jax.losses import multi_similarity, triplet_margin
from mixvpr_jax.mining import multi_similarity_miner
from mixvpr_jax.models.vpr import create_model
from mixvpr_jax.parallel import data_mesh
from mixvpr_jax.torch_weights import to_flax
from mixvpr_jax.training.optimizer import (
    learning_rate_schedule,
    make_optimizer,
    parameter_groups,
)
from mixvpr_jax.training.step import create_state, make_step
from mixvpr_jax.weights import build_model

MODEL = ModelConfig("resnet18", (4,), MixVPRConfig(16, 2, 1, 4), (64, 64), "float64")
SHAPES = {
    name: [16 if size == 32 and "mix" in name else size for size in shape]
    for name, shape in official_shapes()["resnet18_mixvpr_64"].items()
}
RECIPES = {"sgd": 0.05, "adamw": 2e-4}


def batch(step):
    own = recipe_images(1000 + step, (4, 4, 3, 64, 64)).reshape(16, 3, 64, 64)
    place = recipe_images(2000 + step, (4, 1, 3, 64, 64))
    images = own + 0.7 * np.repeat(place, 4, axis=1).reshape(16, 3, 64, 64)
    labels = np.repeat(np.arange(4), 4) + 4 * step
    return jnp.asarray(images.transpose(0, 2, 3, 1)), jnp.asarray(labels, "int32")


def recipe_model():
    state = recipe_state(SHAPES, "float64")
    return build_model(
        MODEL, to_flax({n: a for n, a in state.items() if not n.endswith("num_batches_tracked")})
    )


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", RECIPES)
def test_official_trajectory(name, devices):
    golden = np.load(GOLDEN / f"trajectory_{name}.npz")
    config = OptimizerConfig(name, RECIPES[name], warmup_steps=5, milestones=(2, 3))
    with in_float64():
        model = recipe_model()
        optimizer = make_optimizer(config, steps_per_epoch=4)
        mesh = data_mesh(jax.devices()[:devices])
        step = make_step(model, optimizer, multi_similarity, multi_similarity_miner, mesh)
        training = nnx.clone(model)
        training.train()
        first = np.asarray(training(batch(0)[0]))
        state, losses, accuracies = create_state(model, optimizer), [], []
        for index in range(12):
            state, metrics = step(state, *batch(index))
            losses.append(float(metrics["loss"]))
            accuracies.append(float(metrics["batch_accuracy"]))
        schedule = learning_rate_schedule(config, 4)
        rates = [float(schedule(index)) for index in range(12)]
        nnx.update(model, state.params, state.statistics)
        probe = recipe_images(77, (3, 3, 64, 64)).transpose(0, 2, 3, 1)
        descriptors = np.asarray(model(jnp.asarray(probe)))
        final = to_state_dict(model)
    print(np.abs(np.array(losses) - golden["loss"]).max())
    assert np.abs(np.array(losses) - golden["loss"]).max() <= 1e-8
    assert np.allclose(accuracies, golden["batch_accuracy"], atol=1e-12)
    assert np.allclose(rates, golden["learning_rate"], rtol=1e-12)
    assert np.abs(first - golden["first_descriptors"]).max() <= 1e-12
    assert np.abs(descriptors - golden["probe_descriptors"]).max() <= 1e-8
    start = recipe_state(SHAPES, "float64")
    for entry, array in final.items():
        if entry.endswith("num_batches_tracked"):
            continue
        norm, total = golden[f"norm/{entry}"]
        assert abs(np.linalg.norm(array) - norm) <= 1e-8 * max(norm, 1), entry
        assert abs(array.sum() - total) <= 1e-8 * max(norm, 1), entry
        if f"value/{entry}" in golden:
            assert np.abs(array - golden[f"value/{entry}"]).max() <= 1e-8, entry
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
    with pytest.raises(InputError, match="layers_to_freeze: expected None or 0 to 3, found 4"):
        OptimizerConfig(layers_to_freeze=4)


LOSS_AND_MINER = {
    "multi_similarity": (multi_similarity, multi_similarity_miner),
    "triplet_margin": (triplet_margin, None),
}


@pytest.mark.parametrize("name", LOSS_AND_MINER)
@pytest.mark.parametrize("count", [16, 11])
def test_devices_and_padding_change_nothing(name, count):
    """Sixteen images, and a last batch of eleven, on one device and padded to sixteen on eight."""
    config = OptimizerConfig(warmup_steps=1)
    found = []
    with in_float64():
        optimizer = make_optimizer(config, steps_per_epoch=4)
        for devices in (1, 8):
            images, labels = (array[:count] for array in batch(3))
            if devices == 8:
                spare = 16 - count
                images = jnp.concatenate([images, 9 * jnp.ones((spare, *images.shape[1:]))])
                labels = jnp.concatenate([labels, jnp.full(spare, -1, "int32")])
            model = recipe_model()
            mesh = data_mesh(jax.devices()[:devices])
            step = make_step(model, optimizer, *LOSS_AND_MINER[name], mesh)
            state, metrics = step(create_state(model, optimizer), images, labels)
            nnx.update(model, state.params, state.statistics)
            found.append((to_state_dict(model), {k: float(v) for k, v in metrics.items()}))
    (one, metrics_one), (eight, metrics_eight) = found
    assert metrics_one["loss"] > 0
    assert metrics_one == pytest.approx(metrics_eight, abs=1e-10)
    for entry, array in one.items():
        assert np.abs(array - eight[entry]).max() <= 1e-10, entry


@pytest.mark.parametrize("devices", [1, 2])
def test_gradient_caching_gives_the_same_gradient(devices):
    """With the running statistics held still; otherwise each chunk has statistics of its own."""
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=1), steps_per_epoch=4)
    found = []
    with in_float64():
        mesh = data_mesh(jax.devices()[:devices])
        for chunks in (1, 4):
            model = recipe_model()
            start = to_state_dict(model)
            step = make_step(
                model,
                optimizer,
                *LOSS_AND_MINER["multi_similarity"],
                mesh,
                freeze_statistics=True,
                chunks=chunks,
            )
            state, metrics = step(create_state(model, optimizer), *batch(3))
            nnx.update(model, state.params, state.statistics)
            found.append((to_state_dict(model), float(metrics["loss"])))
    (plain, plain_loss), (cached, cached_loss) = found
    assert plain_loss == pytest.approx(cached_loss, abs=1e-12)
    for entry, array in plain.items():
        assert np.abs(array - cached[entry]).max() <= 1e-10, entry
        if "running" in entry:
            assert np.array_equal(array, start[entry]), entry
    name = "aggregator.row_proj.weight"
    assert np.abs(plain[name] - start[name]).max() > 1e-4


def test_chunks_move_the_statistics_in_turn():
    optimizer = make_optimizer(OptimizerConfig(), steps_per_epoch=4)
    with in_float64():
        model, mesh = recipe_model(), data_mesh(jax.devices()[:1])
        images, labels = batch(0)
        expected = nnx.clone(model)
        expected.train()
        for part in range(2):
            expected(images[8 * part : 8 * part + 8])
        pair = LOSS_AND_MINER["multi_similarity"]
        step = make_step(model, optimizer, *pair, mesh, chunks=2)
        state, _ = step(create_state(model, optimizer), images, labels)
        for path, leaf in nnx.to_flat_state(state.statistics):
            wanted = dict(nnx.to_flat_state(nnx.state(expected, nnx.BatchStat)))[path]
            assert np.abs(leaf[...] - wanted[...]).max() <= 1e-12, path


def test_the_step_reduces_what_it_should_and_no_more():
    config = OptimizerConfig()
    with in_float64():
        model, optimizer = recipe_model(), make_optimizer(config, 4)
        step = make_step(model, optimizer, multi_similarity, multi_similarity_miner, data_mesh())
        text = step.lower(create_state(model, optimizer), *batch(0)).as_text()
    assert text.count("stablehlo.all_gather") == 2  # descriptors, labels
    assert "all_to_all" not in text
    assert "collective_permute" not in text


def test_bfloat16_keeps_float32_where_it_matters():
    pair = LOSS_AND_MINER["multi_similarity"]
    optimizer, losses = make_optimizer(OptimizerConfig(), steps_per_epoch=4), []
    images, labels = batch(0)
    for dtype in ("float32", "bfloat16"):
        model = create_model(replace(MODEL, dtype=dtype))
        with jax.numpy_dtype_promotion("standard"):  # Flax's LayerNorm mixes types
            step = make_step(model, optimizer, *pair, data_mesh())
            state = create_state(model, optimizer)
            state, metrics = step(state, images.astype("float32"), labels)
        kinds = {str(leaf.dtype) for leaf in jax.tree.leaves((state, metrics))}
        assert kinds == {"float32", "int32"}  # integers count steps
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]
