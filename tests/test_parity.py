"""Any configuration: descriptors as the PyTorch reference's, weights there and back unchanged."""

import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_skip as torch
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from one_program import describe
from reference import in_float64, numpy_state, torch_model

from mixvpr_jax.conversion import build_model, convert_checkpoint, to_state_dict, write_checkpoint
from mixvpr_jax.conversion.key_table import to_flax
from mixvpr_jax.models.backbones import RESNETS
from mixvpr_jax.models.config import (
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    MixVPRConfig,
    ModelConfig,
)

AGGREGATORS = st.one_of(
    st.builds(
        MixVPRConfig,
        out_channels=st.integers(1, 24),
        mix_depth=st.integers(0, 3),
        mlp_ratio=st.sampled_from([1, 1.3, 2, 2.7, 3]),
        out_rows=st.integers(1, 5),
    ),
    st.builds(
        ConvAPConfig, out_channels=st.integers(1, 24), s1=st.integers(1, 4), s2=st.integers(1, 4)
    ),
    st.builds(CosPlaceConfig, out_dim=st.integers(1, 48)),
    st.just(GeMConfig()),
)

# Whole, the others have 44 to 127 million parameters; of a whole ResNet-152 there is a golden file.
WHOLE = ("resnet18", "resnet34", "resnet50", "resnext50_32x4d")
BACKBONES = [(arch, crop) for arch in sorted(RESNETS) for crop in ((4,), (3, 4))]
BACKBONES += [(arch, ()) for arch in WHOLE]
CONFIGS = st.builds(
    lambda backbone, *rest: ModelConfig(*backbone, *rest, dtype="float64"),
    st.sampled_from(BACKBONES),
    AGGREGATORS,
    st.tuples(st.integers(33, 90), st.integers(33, 90)),
)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(config=CONFIGS, seed=st.integers(0, 2**32 - 1))
def test_descriptors_of_random_configurations(config, seed, parity):
    reference = torch_model(config, seed)
    images = np.random.default_rng(seed).standard_normal((2, *config.image_size, 3))
    with torch.inference_mode():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    with in_float64():
        model = build_model(config, to_flax(numpy_state(reference)))
        descriptors = np.asarray(nnx.jit(lambda m, x: m(x))(model, jnp.asarray(images)))
    assert descriptors.shape == (2, config.descriptor_dim) == expected.shape
    parity(
        "descriptors of random configurations, float64", np.abs(descriptors - expected).max(), 1e-12
    )


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    config=CONFIGS, seed=st.integers(0, 2**32 - 1), suffix=st.sampled_from(["pt", "safetensors"])
)
def test_there_and_back(config, seed, suffix):
    reference = torch_model(config, seed).float()
    with tempfile.TemporaryDirectory() as folder:
        official, ours = Path(folder) / "official.ckpt", Path(folder) / f"ours.{suffix}"
        torch.save(reference.state_dict(), official)
        pool = (config.aggregator.s1, config.aggregator.s2) if is_convap(config) else None
        model = convert_checkpoint(official, in_size=config.feature_size, pool_size=pool).model
        write_checkpoint(model, ours)
        state = to_state_dict(model)
        again = convert_checkpoint(ours, in_size=config.feature_size, pool_size=pool).model
    assert model.config == again.config
    # The backbone's name is free where cutting made two of them equal; nothing else is.
    assert model.config.feature_size == config.feature_size
    assert model.config.descriptor_dim == config.descriptor_dim
    for name, tensor in reference.state_dict().items():
        assert np.array_equal(state[name], tensor.numpy()), name
        assert state[name].dtype == tensor.numpy().dtype, name
    reference.load_state_dict(
        {name: torch.tensor(array) for name, array in state.items()}, strict=True
    )


def is_convap(config):
    return isinstance(config.aggregator, ConvAPConfig)


@pytest.mark.parametrize("aggregator", [MixVPRConfig(6, 2, 2, 3), ConvAPConfig(5), GeMConfig()])
def test_gradients_are_torchs(aggregator):
    config = ModelConfig("resnet18", (4,), aggregator, (64, 48), dtype="float64")
    reference = torch_model(config).train()
    random = np.random.default_rng(0)
    images = random.standard_normal((3, 64, 48, 3))
    weights = random.standard_normal((3, config.descriptor_dim))
    with in_float64():
        model = build_model(config, to_flax(numpy_state(reference)))
        model.train()

        @nnx.jit
        @nnx.grad
        def gradient(model):
            return (model(jnp.asarray(images)) * weights).sum()

        found = nnx.to_flat_state(gradient(model))
        ours = {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in found}
    (reference(torch.tensor(images.transpose(0, 3, 1, 2))) * torch.tensor(weights)).sum().backward()
    state = {name: p.grad.numpy() for name, p in reference.named_parameters()}
    expected = to_flax(state)
    assert ours.keys() == expected.keys()
    for name, theirs in expected.items():
        error = np.abs(ours[name] - theirs).max()
        assert error <= 1e-10 * max(1, np.abs(theirs).max()), name


@pytest.mark.parametrize("arch", sorted(RESNETS))
def test_training_mode_is_torchs(arch):
    config = ModelConfig(arch, (3, 4), GeMConfig(), (48, 40), dtype="float64")
    reference = torch_model(config).train()
    images = np.random.default_rng(0).standard_normal((3, 48, 40, 3))
    with in_float64():
        model = build_model(config, to_flax(numpy_state(reference)))
        model.train()
        descriptors = np.asarray(describe(model, jnp.asarray(images)))
        state = to_state_dict(model)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    assert np.abs(descriptors - expected).max() <= 1e-12
    for name, array in numpy_state(reference).items():
        assert np.abs(state[name] - array).max() <= 1e-12, name
