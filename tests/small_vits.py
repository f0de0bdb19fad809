"""Tiny vision transformers beside the published ones, shared by tests."""

import numpy as np
import pytest
from flax import nnx

from mixvpr_jax import ModelConfig
from mixvpr_jax.conversion import build_model
from mixvpr_jax.models import backbones
from mixvpr_jax.models.backbones import ViTShape
from mixvpr_jax.models.vpr import abstract_model

TINY = {
    "plain": ViTShape(2, 24, 3),
    "registers": ViTShape(2, 24, 3, num_registers=4),
    "gated": ViTShape(2, 24, 2, swiglu=True),
    "gated, registers": ViTShape(1, 40, 2, swiglu=True, num_registers=4),
}


@pytest.fixture
def tiny(monkeypatch):
    """Small models beside the published ones."""
    for mapping in (backbones.VITS, backbones.BACKBONES):
        for name, shape in TINY.items():
            monkeypatch.setitem(mapping, name, shape)


def drawn(name, size, dtype="float64", aggregator=None, **options):
    """A tiny model whose every parameter is random, but for GeM's exponent."""
    config = ModelConfig(name, (), aggregator, size, dtype, **options)
    shapes = nnx.state(abstract_model(config), nnx.Param)
    rng, weights = np.random.default_rng(2), {}
    for path, leaf in nnx.to_flat_state(shapes):
        values = rng.normal(0.1, 0.3, leaf.shape) if path[-1] != "p" else np.full(leaf.shape, 3.0)
        weights[".".join(path)] = values.astype(leaf.dtype)
    return build_model(config, weights)
