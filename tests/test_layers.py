"""Layers: values and derivatives of what JAX or Flax does not give as we need it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixvpr_jax.evaluation.describe import compile_encoder
from mixvpr_jax.models.config import GeMConfig, ModelConfig
from mixvpr_jax.models.layers import Conv, WinogradConv, relu
from mixvpr_jax.models.vpr import create_model, empty_model, fold

SHAPES = [(1, 1, 1, 3, 5), (2, 2, 3, 8, 4), (1, 7, 12, 64, 64), (3, 20, 19, 32, 48)]


def test_relu_is_that_of_jax():
    x = jnp.asarray([-np.inf, -1.0, -1e-45, -0.0, 0.0, 1e-45, 2.0, np.inf], jnp.float32)
    for ours, theirs in ((relu, jax.nn.relu), (jax.jit(relu), jax.jit(jax.nn.relu))):
        np.testing.assert_array_equal(ours(x), theirs(x))
        np.testing.assert_array_equal(*(jax.vmap(jax.grad(f))(x) for f in (ours, theirs)))
        second = (jax.vmap(jax.grad(jax.grad(f)))(x) for f in (ours, theirs))
        np.testing.assert_array_equal(*second)


def direct(x, kernel):
    conv = Conv(*kernel.shape[2:], 3, dtype=x.dtype.name, rngs=nnx.Rngs(0))
    return conv(jnp.asarray(x), jnp.asarray(kernel, x.dtype))


@pytest.mark.parametrize("batch, height, width, narrow, broad", SHAPES)
def test_as_near_to_float64_as_a_direct_convolution(batch, height, width, narrow, broad):
    draw = np.random.default_rng(height)
    x = draw.standard_normal((batch, height, width, narrow))
    kernel = draw.standard_normal((3, 3, narrow, broad))
    with jax.enable_x64(True):
        exact = np.asarray(direct(x, kernel))
    by_few = np.asarray(WinogradConv(kernel)(jnp.asarray(x, jnp.float32)))
    by_all = np.asarray(direct(x.astype(np.float32), kernel))
    assert by_few.shape == exact.shape
    error, usual = (np.sqrt(np.mean((found - exact) ** 2)) for found in (by_few, by_all))
    assert usual > 0 and error < max(2 * usual, 1e-6)


@pytest.mark.parametrize(
    ("arch", "side", "platform", "dtype", "expected"),
    [
        ("resnet50", 128, "cpu", "float32", {"1", "3", "winograd"}),
        ("resnet18", 128, "cpu", "tensorfloat32", {"1", "winograd"}),
        ("resnext50_32x4d", 128, "cpu", "float32", {"1", "3"}),  # of groups
        ("resnet50", 128, "cpu", "bfloat16", {"1", "3"}),
        ("resnet50", 128, "gpu", "float32", {"1", "3"}),
        ("resnet50", 128, None, "float32", {"1", "3"}),
        ("resnet50", 96, "cpu", "float32", {"1", "3"}),
    ],
)
def test_which_convolutions_of_a_folded_model_change(arch, side, platform, dtype, expected):
    config = ModelConfig(arch, (3, 4), GeMConfig(), (side, side), dtype)
    kinds = set()
    for name, module in nnx.iter_modules(fold(empty_model(config), platform).backbone):
        if isinstance(module, WinogradConv):
            kinds.add("winograd")
        elif isinstance(module, Conv) and name != ("conv1",):  # the stem
            kinds.add(str(module.kernel.shape[0]))
    if arch == "resnet18":
        expected = expected | {"3"}  # those with a stride
    assert kinds == expected


def test_descriptors_by_fewer_products():
    """Of maps with odd sides: 33x38, 17x19."""
    model = create_model(ModelConfig("resnet18", (3, 4), GeMConfig(), (130, 150)), seed=3)
    images = np.random.default_rng(0).standard_normal((2, 130, 150, 3), np.float32)
    np.testing.assert_allclose(compile_encoder(model)(images), model(images), atol=1e-6, rtol=0)
