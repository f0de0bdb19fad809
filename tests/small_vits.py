"""Tiny vision transformers beside the published ones, shared by tests."""

import pytest
import random_models

from mixvpr_jax import ModelConfig
from mixvpr_jax.models import backbones
from mixvpr_jax.models.backbones import ViTShape

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
    """A tiny model of random parameters."""
    return random_models.drawn(ModelConfig(name, (), aggregator, size, dtype, **options))
