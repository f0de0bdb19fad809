"""A small checkpoint of the recipe, shared by the tests of the conversion."""

from functools import lru_cache

import numpy as np
import pytest
import torch_or_skip as torch
from recipe import official_shapes, recipe_state

from mixvpr_jax.conversion import to_state_dict
from mixvpr_jax.conversion.torch_files import open_torch_file
from mixvpr_jax.models.config import MixVPRConfig, ModelConfig

CASE = "resnet18_mixvpr_64"
CONFIG = ModelConfig("resnet18", (4,), MixVPRConfig(16, 2, 2.0, 4), (64, 64))


@lru_cache(maxsize=1)
def _drawn(case):
    return {n: torch.tensor(a) for n, a in recipe_state(official_shapes()[case]).items()}


def tensors(case=CASE):
    return {name: tensor.clone() for name, tensor in _drawn(case).items()}


@pytest.fixture
def state():
    return tensors()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "official.ckpt"


def saved(path, content):
    torch.save(content, path)
    return path


def read_file(path):
    """What a file of PyTorch holds, the tensors of its state_dict as arrays."""
    with open_torch_file(path) as file:
        content = file.content
        if "state_dict" in content:
            return {**content, "state_dict": file.arrays(content["state_dict"])}
        return file.arrays(content)


def same_weights(model, state):
    ours = to_state_dict(model)
    assert ours.keys() == state.keys()
    return all(np.array_equal(ours[name], state[name].numpy()) for name in state)
