import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from recipe import CASES, GOLDEN, official_shapes, recipe_images, recipe_state

from mixvpr_jax.config import AGGREGATORS, ModelConfig
from mixvpr_jax.torch_weights import to_flax
from mixvpr_jax.weights import build_model


def config_of(golden, dtype):
    values = json.loads(str(golden["config"]))
    options = dict(values["aggregator_config"])
    for derived in ("in_channels", "in_h", "in_w", "in_dim"):
        options.pop(derived, None)
    return ModelConfig(
        arch=values["arch"],
        layers_to_crop=tuple(values["layers_to_crop"]),
        aggregator=AGGREGATORS[values["aggregator"]](**options),
        image_size=(values["image_size"], values["image_size"]),
        dtype=dtype,
    ), values


def golden_model(case, dtype):
    golden = np.load(GOLDEN / f"descriptors_{case}.npz")
    config, values = config_of(golden, dtype)
    stored = "float64" if dtype == "float64" else "float32"
    state = recipe_state(official_shapes()[case], stored)
    kept = {n: a for n, a in state.items() if not n.endswith("num_batches_tracked")}
    model = build_model(config, to_flax(kept))
    size = values["image_size"]
    images = recipe_images(values["image_seed"], (values["batch"], 3, size, size))
    images = jnp.asarray(images.transpose(0, 2, 3, 1), stored)
    return golden, model, images


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("float64", 1e-12)])
def test_official_descriptors(case, dtype, tolerance, jit):
    # Flax's LayerNorm widens float64 "to at least float32", which strict promotion refuses.
    promotion = "standard" if dtype == "float64" else "strict"
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion(promotion):
        golden, model, images = golden_model(case, dtype)
        call = nnx.jit(lambda m, x: m(x)) if jit else lambda m, x: m(x)
        descriptors = call(model, images)
        features = np.asarray(call(model.backbone, images))
        assert descriptors.dtype == dtype
        error = np.abs(np.asarray(descriptors) - golden["descriptors"]).max()
        print(case, dtype, error)
        assert error <= tolerance
    corner = golden["feature_map_corner"]
    ours = features.transpose(0, 3, 1, 2)[:, :8, :3, :3]
    # A map is not of unit norm, so its errors are taken relative to its largest value. (Absolute
    # ones are below 2e-6 too, but for ResNet-34: 3.2e-6 where values reach 3.7. Official float32
    # differs from official float64 by 2.0e-6 there, by 3.0e-6 over the whole map.)
    scale = np.abs(corner).max()
    print(np.abs(ours - corner).max() / scale, scale)
    assert np.abs(ours - corner).max() <= tolerance * scale
    means = features.mean((1, 2), dtype=np.float64)
    assert np.abs(means - golden["feature_map_mean"]).max() <= max(tolerance, 1e-6) * scale
