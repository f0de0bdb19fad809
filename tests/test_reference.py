"""The PyTorch reference is held to the golden values too, or agreement with it means nothing."""

import json

import numpy as np
import pytest
import torch_or_skip as torch
from recipe import CASES, GOLDEN, official_shapes, recipe_images, recipe_state
from reference_torch import VPRModel


@pytest.mark.parametrize("case", CASES)
def test_reference_gives_the_official_descriptors(case):
    golden = np.load(GOLDEN / f"descriptors_{case}.npz")
    c = json.loads(str(golden["config"]))
    model = VPRModel(c["arch"], c["layers_to_crop"], c["aggregator"], c["aggregator_config"])
    assert {n: list(t.shape) for n, t in model.state_dict().items()} == official_shapes()[case]
    state = recipe_state(official_shapes()[case], "float64")
    model = model.double().eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    images = recipe_images(c["image_seed"], (c["batch"], 3, c["image_size"], c["image_size"]))
    with torch.inference_mode():
        descriptors = model(torch.from_numpy(images)).numpy()
    assert np.abs(descriptors - golden["descriptors"]).max() < 1e-13
