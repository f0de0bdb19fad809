"""The learning rate of every step, held to PyTorch's MultiStepLR inside the official loop."""

import jax
import numpy as np
import optax
import pytest
import torch_or_skip as torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import in_float64

from mixvpr_jax import InputError
from mixvpr_jax.training.config import OptimizerConfig
from mixvpr_jax.training.step import learning_rate_schedule, make_optimizer


@pytest.fixture(autouse=True)
def ordinary_promotion():
    """AdamW of optax mixes types, and steps are NumPy's int64 here."""
    with jax.numpy_dtype_promotion("standard"):
        yield


OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def official_rates(config, steps_per_epoch, steps):
    """Warm-up sets every group's rate before a step; the scheduler acts after each epoch."""
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = OPTIMIZERS[config.name]([weight], lr=config.learning_rate)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, list(config.milestones), config.factor
    )
    rates = []
    for step in range(steps):
        if step < config.warmup_steps:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (step + 1) / config.warmup_steps
        rates.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        if (step + 1) % steps_per_epoch == 0:
            scheduler.step()
    return np.array(rates)


def our_rates(config, steps_per_epoch, steps):
    schedule = learning_rate_schedule(config, steps_per_epoch)
    return np.array(jax.vmap(schedule)(np.arange(steps)))


def config_of(name="sgd", warmup_steps=0, milestones=(), learning_rate=0.05, factor=0.3):
    return OptimizerConfig(
        name, learning_rate, warmup_steps=warmup_steps, milestones=tuple(milestones), factor=factor
    )


CONFIGS = st.builds(
    config_of,
    st.sampled_from(sorted(OPTIMIZERS)),
    st.integers(0, 50),
    st.lists(st.integers(0, 12), max_size=6),
    st.floats(1e-5, 10),
    st.floats(0.05, 2),
)


@settings(max_examples=200, deadline=None)
@given(config=CONFIGS, steps_per_epoch=st.integers(1, 9))
@example(config_of(warmup_steps=650, milestones=(5, 10, 15, 25, 45)), 23)  # one city
@example(config_of(warmup_steps=8, milestones=(2,)), 4)  # falls where warm-up ends
@example(config_of(warmup_steps=9, milestones=(2,)), 4)  # one step before
@example(config_of(warmup_steps=7, milestones=(2,)), 4)  # one step after
@example(config_of(milestones=(0, 3)), 4)
@example(config_of(warmup_steps=1, milestones=(0, 3)), 4)
@example(config_of(warmup_steps=5, milestones=(3, 1, 3, 3, 1)), 4)  # repeated, in no order
@example(config_of(warmup_steps=10_000, milestones=(1, 2)), 4)  # beyond the end
def test_rates_are_those_of_the_official_loop(config, steps_per_epoch):
    steps = 80 if config.warmup_steps < 100 else 1100
    with in_float64():
        found = our_rates(config, steps_per_epoch, steps)
    assert found.dtype == np.float64
    assert found == pytest.approx(official_rates(config, steps_per_epoch, steps), rel=1e-13, abs=0)


def test_the_rate_after_a_long_warm_up_is_the_full_one():
    """One city has 23 steps an epoch: four of the milestones pass during warm-up."""
    rates = our_rates(OptimizerConfig(), 23, 1100)
    assert rates[[0, 324, 649, 650, 1034]] == pytest.approx([0.05 / 650, 0.025, 0.05, 0.05, 0.05])
    assert rates[[1035, 1099]] == pytest.approx([0.015, 0.015])


def test_a_milestone_that_never_comes():
    rates = our_rates(config_of(milestones=(2, 10**12)), 517, 2000)
    assert rates[[0, 1033, 1034, 1999]] == pytest.approx([0.05, 0.05, 0.015, 0.015])


def test_linear_decay_is_pytorchs():
    config = OptimizerConfig(
        "adamw", 6e-5, warmup_steps=0, milestones=(), linear_decay_steps=7, linear_decay_factor=0.2
    )
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=6e-5)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, total_iters=7)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    with in_float64():
        found = our_rates(config, 4, 12)
    assert found == pytest.approx(expected, rel=1e-13, abs=0)


LAYERS = {  # parameters of ResNets and transformers, and how many blocks or stages they lie below
    "resnet": {"conv1": 4, "layer1": 3, "layer2": 2, "layer3": 1},
    "transformer": {"pos_embed": 3, "blocks.0": 2, "blocks.1": 1, "norm": 0},
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layer_decay_is_a_rate_for_each_layer(name, kind):
    """As parameter groups in PyTorch: weight decay and momentum follow the rate."""
    rng, below = np.random.default_rng(0), {**LAYERS[kind], "head": 0}
    start = {layer: rng.standard_normal(3) for layer in below}
    tensors = {layer: torch.tensor(array, requires_grad=True) for layer, array in start.items()}
    groups = [{"params": [tensors[layer]], "lr": 0.1 * 0.7**n} for layer, n in below.items()]
    options = {"sgd": {"momentum": 0.9}, "adamw": {}}[name]
    theirs = OPTIMIZERS[name](groups, weight_decay=0.1, **options)
    config = OptimizerConfig(name, 0.1, 0.9, 0.1, 0, (), layer_decay=0.7, layers_to_freeze=None)

    def nested(arrays):
        tree = {"aggregator": {"head": arrays["head"]}, "backbone": {}}
        for layer in LAYERS[kind]:
            *outer, inner = layer.split(".")
            part = tree["backbone"]
            for key in outer:
                part = part.setdefault(key, {})
            part[inner] = arrays[layer]
        return tree

    with in_float64():
        optimizer, params = make_optimizer(config, steps_per_epoch=4), nested(start)
        state = optimizer.init(params)
        for _ in range(4):
            gradient = {layer: rng.standard_normal(3) for layer in below}
            for layer, tensor in tensors.items():
                tensor.grad = torch.tensor(gradient[layer])
            theirs.step()
            updates, state = optimizer.update(nested(gradient), state, params)
            params = optax.apply_updates(params, updates)
        expected = nested({layer: tensor.detach().numpy() for layer, tensor in tensors.items()})
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)


def test_rates_that_are_refused():
    with pytest.raises(InputError, match=r"layer_decay: expected at most 1, found 1\.5"):
        OptimizerConfig(layer_decay=1.5)
    with pytest.raises(InputError, match="linear_decay_steps: expected"):
        OptimizerConfig(linear_decay_steps=-1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_follow_the_rates(name):
    """A weight whose gradient is always 1: SGD moves by the rate, AdamW by the rate, too."""
    config = OptimizerConfig(
        name, 0.05, 0.0, 0.0, warmup_steps=6, milestones=(1, 2), layers_to_freeze=None
    )
    with in_float64():
        optimizer, weight = make_optimizer(config, steps_per_epoch=4), {"head": np.zeros(1)}
        state, moved = optimizer.init(weight), []
        for _ in range(12):
            update, state = optimizer.update({"head": np.ones(1)}, state, weight)
            moved.append(-float(update["head"][0]))
    assert moved == pytest.approx(official_rates(config, 4, 12), rel=1e-6)
