"""A small MixVPR and photos for it, shared by the tests of the public API."""

import numpy as np
import pytest

from mixvpr_jax import MixVPRConfig, ModelConfig, create_model

SMALL = ModelConfig("resnet18", (3, 4), MixVPRConfig(8, 1, 1, 2), (48, 64))


@pytest.fixture(scope="module")
def model():
    return create_model(SMALL, seed=3)


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), np.uint8)
