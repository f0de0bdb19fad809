"""Products of float32 keep float32 on accelerators, which round factors unless told otherwise.

No CPU shows the difference in a result, so the programs that GPUs get are looked at.
"""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from mixvpr_jax.data.device_augmentation import resize
from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.evaluation.search import better
from mixvpr_jax.losses import LOSSES
from mixvpr_jax.losses.mining import MINERS
from mixvpr_jax.models.config import ConvAPConfig, CosPlaceConfig, MixVPRConfig, ModelConfig
from mixvpr_jax.models.vpr import abstract_model

AGGREGATORS = [MixVPRConfig(8, 1, 1, 2), ConvAPConfig(8), CosPlaceConfig(8)]
EXACT = ("f32", "HIGHEST")


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


def integers(*shape):
    return jax.ShapeDtypeStruct(shape, np.int32)


def products(function, *arguments, **options):
    """Dtype and precision of the factors of each product in a program."""
    traced = (function if hasattr(function, "trace") else jax.jit(function)).trace(
        *arguments, **options
    )
    lowered = traced.lower(lowering_platforms=("cuda",))
    lines = re.findall(r"stablehlo\.(convolution|dot_general|dot)\b(.*)", lowered.as_text())
    assert lines
    return {
        (dtype, precision)
        for _, line in lines
        for dtype, precision in zip(
            re.search(r": \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\)", line).groups(),
            re.findall(r"DEFAULT|HIGHEST|HIGH", line) or ["DEFAULT"] * 2,
            strict=True,
        )
    }


def gradient_of_model(config):
    """A program of the whole model, there and back, and what it takes."""
    graph, state = nnx.split(abstract_model(config))

    def value(state, images):
        model = nnx.merge(graph, state)
        model.train()
        return model(images).sum()

    return jax.grad(value), state, floats(2, *config.image_size, 3)


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda config: config.name)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_and_their_gradients(aggregator, dtype):
    """In bfloat16, statistics of convolutions are products of float32 all the same."""
    config = ModelConfig("resnet18", (3, 4), aggregator, (32, 32), dtype)
    expected = {EXACT} if dtype == "float32" else {EXACT, ("bf16", "DEFAULT")}
    assert products(*gradient_of_model(config)) == expected


@pytest.mark.parametrize("aggregator", AGGREGATORS[:1], ids=lambda config: config.name)
def test_tensorfloat32_is_of_models_that_ask_for_it(aggregator):
    config = ModelConfig("resnet18", (3, 4), aggregator, (32, 32), "tensorfloat32")
    graph, state = nnx.split(abstract_model(config))
    images = floats(2, *config.image_size, 3)
    found = products(lambda state, images: nnx.merge(graph, state)(images), state, images)
    assert found == {("f32", "HIGH")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype("float32")}


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_miners(loss, miner):
    def value(descriptors, labels):
        mined = None if loss == "CentroidTripletLoss" else MINERS[miner](descriptors, labels)
        return LOSSES[loss](descriptors, labels, mined)

    found = products(jax.grad(value), floats(16, 8), integers(16))
    assert found == {EXACT}


def test_resize():
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), np.uint8)
    found = products(lambda *given: resize(*given, (4, 4)), images, integers(2, 2))
    assert found == {EXACT}


def test_search():
    mesh = data_mesh(jax.devices()[:1])
    arguments = floats(1, 4, 8), integers(1, 4, 8), floats(4, 16), floats(256, 16), floats(256)
    assert products(better, *arguments, np.int32(0), mesh, None) == {EXACT}
