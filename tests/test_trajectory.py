"""Twelve steps of the official training, in float64: losses, learning rates, every final weight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from recipe import GOLDEN, official_shapes, recipe_images, recipe_state
from reference import in_float64

from mixvpr_jax.config import MixVPRConfig, ModelConfig, OptimizerConfig
from mixvpr_jax.conversion import to_state_dict
from mixvpr_jax.errors import InputError
from mixvpr_jax.losses import multi_similarity
from mixvpr_jax.mining import batch_accuracy, multi_similarity_miner
from mixvpr_jax.torch_weights import to_flax
from mixvpr_jax.training.optimizer import (
    learning_rate_schedule,
    make_optimizer,
    parameter_groups,
)
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


@pytest.mark.parametrize("name", RECIPES)
def test_official_trajectory(name):
    golden = np.load(GOLDEN / f"trajectory_{name}.npz")
    config = OptimizerConfig(name, RECIPES[name], warmup_steps=5, milestones=(2, 3))
    with in_float64():
        model = recipe_model()
        model.train()
        graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
        optimizer = make_optimizer(config, steps_per_epoch=4)
        state = optimizer.init(params)

        @jax.jit
        def step(params, statistics, state, images, labels):
            def loss(params):
                model = nnx.merge(graph, params, statistics, copy=True)
                descriptors = model(images)
                mined = multi_similarity_miner(descriptors, labels)
                value = multi_similarity(descriptors, labels, mined)
                moved = nnx.state(model, nnx.BatchStat)
                return value, (moved, batch_accuracy(mined, labels), descriptors)

            (value, (moved, *others)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            updates, state_ = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), moved, state_, (value, *others)

        losses, accuracies = [], []
        for index in range(12):
            params, statistics, state, told = step(params, statistics, state, *batch(index))
            losses.append(float(told[0]))
            accuracies.append(float(told[1]))
            if index == 0:
                first = np.asarray(told[2])
        schedule = learning_rate_schedule(config, 4)
        rates = [float(schedule(index)) for index in range(12)]
        model = nnx.merge(graph, params, statistics)
        model.eval()
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
