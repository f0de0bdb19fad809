"""The cheaper forms of normalisation equal the plain ones: values, batch_stats, derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixvpr_jax.models.layers import Conv
from mixvpr_jax.models.normalization import BatchNorm, layer_norm, normalized_conv


@pytest.fixture
def double():
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


PADDING = {"none": None, "some": [True, False, True], "nothing else": [False] * 3}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("valid", PADDING.values(), ids=PADDING)
@pytest.mark.parametrize(
    ("size", "narrow", "broad", "stride", "platform"),
    [
        *((1, 4, 8, 2, platform) for platform in (None, "cpu", "tpu")),
        (1, 8, 4, 1, None),
        *((3, 4, 8, stride, platform) for stride in (1, 2) for platform in (None, "cpu")),
    ],
)
def test_folded_convolution(size, narrow, broad, stride, platform, valid, training, double):
    rngs = nnx.Rngs(0)
    conv = Conv(narrow, broad, size, stride=stride, dtype="float64", rngs=rngs)
    norm = BatchNorm(broad, dtype="float64")
    norm.use_running_average = not training
    norm.mean[...], norm.var[...] = np.linspace(-1, 1, broad), np.linspace(0.5, 2, broad)
    graph, state = nnx.split((conv, norm))
    x = jnp.asarray(np.random.default_rng(0).normal(3, 1, (3, 6, 6, narrow)))
    valid = None if valid is None else jnp.asarray(valid)

    def run(function, state, x):
        conv, norm = nnx.merge(graph, state, copy=True)
        y = function(conv, norm, x)
        kept = y if valid is None else y * valid[:, None, None, None]
        return jnp.sin(kept).sum(), (kept, nnx.state(norm, nnx.BatchStat))

    def plain(conv, norm, x):
        return norm(conv(x), valid)

    def folded(conv, norm, x):
        conv.set_view(platform)
        return normalized_conv(conv, norm, x, valid)

    ours, expected = (
        jax.value_and_grad(partial(run, function), (0, 1), has_aux=True)(state, x)
        for function in (folded, plain)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), ours, expected
    )


def test_layer_norm(double):
    layer = nnx.LayerNorm(5, epsilon=1e-5, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    layer.scale[...], layer.bias[...] = jnp.linspace(1, 2, 5), jnp.linspace(-1, 1, 5)
    graph, state = nnx.split(layer)
    x = jnp.asarray(np.random.default_rng(0).normal(3, 1, (5, 7)))
    ours, expected = (
        jax.value_and_grad(function, (0, 1))(state, x)
        for function in (
            lambda state, x: jnp.sin(layer_norm(nnx.merge(graph, state), x)).sum(),
            lambda state, x: jnp.sin(nnx.merge(graph, state)(x.T)).sum(),
        )
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), ours, expected
    )
