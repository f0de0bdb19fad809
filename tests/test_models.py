import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from recipe import CASES, GOLDEN, official_shapes, recipe_images, recipe_state

from mixvpr_jax.conversion import build_model
from mixvpr_jax.conversion.key_table import to_flax
from mixvpr_jax.models.config import AGGREGATORS, ModelConfig


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


def describe(model, images):
    """Descriptors and feature map."""
    return model(images), model.backbone(images)


# Float32 shows how a model rounds and float64 what it computes, for which XLA takes its time: there
# the deepest are left out, whose blocks ResNet-50 has.
IN_FLOAT64 = [case for case in CASES if not case.startswith(("resnet101", "resnet152"))]
# One operation after the other, as an interactive session calls a model.
EAGER = [
    *(("float32", case) for case in ("resnet18_mixvpr_64", "resnet50_mixvpr_512")),
    *(("float64", case) for case in ("resnet18_full_convap", "resnet18_gem")),
]
COMPILED = [*(("float32", case) for case in CASES), *(("float64", case) for case in IN_FLOAT64)]


@pytest.mark.parametrize(
    ("dtype", "case", "compiled"),
    [*((*pair, True) for pair in COMPILED), *((*pair, False) for pair in EAGER)],
)
def test_official_descriptors(dtype, case, compiled, parity, request):
    count, tolerance = {"float32": ("ten", 2e-6), "float64": ("eight", 1e-12)}[dtype]
    # In float64, the last bits are no matter: LLVM's time pays for large images alone.
    if dtype == "float32" or case.startswith("resnet50"):
        request.getfixturevalue("optimized")
    with jax.enable_x64(dtype == "float64"):
        golden, model, images = golden_model(case, dtype)
        call = nnx.jit(describe) if compiled else describe
        descriptors, features = call(model, images)
        features = np.asarray(features)
        assert descriptors.dtype == dtype
        error = np.abs(np.asarray(descriptors) - golden["descriptors"]).max()
    parity(f"descriptors of {count} models, {dtype}", error, tolerance)
    corner = golden["feature_map_corner"]
    ours = features.transpose(0, 3, 1, 2)[:, :8, :3, :3]
    # Values reach 1.2 to 3.7, and rounding is relative to them. How float32 rounds depends on the
    # order of sums, which XLA chooses by the processor's caches: up to 1.1e-6 was seen.
    error = np.abs(ours - corner).max() / np.abs(corner).max()
    parity(f"their feature maps, of the largest value, {dtype}", error, tolerance)
    means = golden["feature_map_mean"]  # stored as float32
    beyond = np.abs(features.mean((1, 2), dtype=np.float64) - means) - np.spacing(means) / 2
    assert beyond.max() <= tolerance
