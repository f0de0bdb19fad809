"""Where the model looks: a cell's weight is what the similarity owes it."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixvpr_jax import ConvAPConfig, MixVPRConfig, ModelConfig, create_model
from mixvpr_jax.evaluation.describe import compile_saliency

AGGREGATORS = [MixVPRConfig(8, 1, 1, 2), ConvAPConfig(8, 2, 2)]


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda config: config.name)
def test_a_weight_is_the_first_order_change_of_similarity(aggregator):
    model = create_model(ModelConfig("resnet18", (3, 4), aggregator, (48, 64)), seed=3)
    pair = np.random.default_rng(0).standard_normal((2, 48, 64, 3)).astype(np.float32)
    maps = np.asarray(compile_saliency(model)(pair))
    features = np.asarray(model.backbone(jnp.asarray(pair)))
    assert maps.shape == features.shape[:3]
    scale = nnx.jit(lambda f: model.aggregator(f))

    def similarity(changed):
        query, match = np.asarray(scale(changed), np.float64)
        return query @ match

    step = 1e-2
    for image in range(2):
        changes = np.zeros(features.shape[1:3])
        for cell in np.ndindex(*changes.shape):
            values = []
            for sign in (1, -1):
                changed = features.copy()
                changed[(image, *cell)] *= 1 + sign * step
                values.append(similarity(jnp.asarray(changed)))
            changes[cell] = abs(values[0] - values[1]) / (2 * step)
        expected = changes / changes.max()
        assert np.abs(maps[image] - expected).max() <= 2e-2
        assert maps[image].max() == pytest.approx(1)


def test_what_is_blank_has_no_weight():
    """A model that sees the left half alone: half of the kernel's input is zeros."""
    model = create_model(ModelConfig("resnet18", (3, 4), ConvAPConfig(8, 1, 2), (48, 64)), seed=3)
    pair = np.random.default_rng(1).standard_normal((2, 48, 64, 3)).astype(np.float32)

    class Halved(nnx.Module):
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, features):
            columns = np.arange(features.shape[2]) < features.shape[2] // 2
            return self.inner(features * jnp.asarray(columns, jnp.float32)[None, None, :, None])

    model.aggregator = Halved(model.aggregator)
    for found in np.asarray(compile_saliency(model)(pair)):
        half = found.shape[1] // 2
        assert found[:, half:].max() == 0 and found[:, :half].max() == pytest.approx(1)
