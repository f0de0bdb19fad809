"""Backbones against golden feature maps and against second writings in PyTorch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import torch_or_skip as torch
from one_program import describe
from recipe import GOLDEN, official_shapes, recipe_images, recipe_state

from mixvpr_jax import ModelConfig
from mixvpr_jax.conversion import build_model, get_weights
from mixvpr_jax.conversion.key_table import to_flax, to_torch
from mixvpr_jax.export.engine import EngineModel
from mixvpr_jax.export.files import export_model
from mixvpr_jax.export.graph import OPSETS, to_onnx

PREFIX = "backbone.model."
UNUSED = ("classifier.", "head.", "num_batches_tracked")


def without_unused(state):
    """A state_dict without classifier and counters."""
    return {
        name: array
        for name, array in state.items()
        if not name.removeprefix(PREFIX).startswith(UNUSED) and not name.endswith(UNUSED)
    }


def golden_error(arch, dtype):
    """The largest difference from a golden feature map."""
    golden = np.load(GOLDEN / f"trunk_{arch}.npz")
    values = json.loads(str(golden["config"]))
    size = values["image_size"]
    with jax.enable_x64(dtype == "float64"):
        state = without_unused(recipe_state(official_shapes()[arch], dtype))
        config = ModelConfig(arch, (), None, (size, size), dtype)
        model = build_model(config, to_flax({PREFIX + n: a for n, a in state.items()}))
        images = recipe_images(values["image_seed"], (values["batch"], 3, size, size))
        images = jnp.asarray(images.transpose(0, 2, 3, 1), dtype)
        found = np.asarray(describe(model, images))
    stride = int(golden["channel_stride"])
    means = found.mean((1, 2), dtype=np.float64) - golden["channel_mean"]
    return max(np.abs(found[..., ::stride] - golden["feature_map"]).max(), np.abs(means).max())


def state_of(model):
    """The backbone's state_dict, of tensors."""
    state = without_unused(to_torch(get_weights(model)))
    return {
        name.removeprefix(PREFIX): torch.from_numpy(np.array(array))
        for name, array in state.items()
        if name.startswith(PREFIX)
    }


def channels_first(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def saved(state, path):
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in state.items()}, path)
    return path


def require_close(found, expected, tolerance=1e-12):
    """Holds an array to one of PyTorch's, relative to its largest value."""
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    limit = tolerance * max(np.abs(expected).max(), 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def check_graphs(model, images, path, *, all_of_them=True):
    """ONNX graphs of a model compute what JAX does, as do the CPU engines; as a file, too.

    `all_of_them` takes the dtypes, opsets and engines; otherwise it is one graph and the file.
    """
    expected = np.asarray(describe(model, images))
    largest = np.abs(expected).max()
    kinds = (
        ("float32", OPSETS[0], 2e-6),
        ("float32", OPSETS[-1], 2e-6),
        ("float16", OPSETS[0], 1e-2),
    )
    for dtype, opset, limit in kinds if all_of_them else kinds[:1]:
        graph = to_onnx(model, dtype=dtype, opset=opset)
        onnx.checker.check_model(graph, full_check=True)
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        for batch in (1, len(images)):
            found = session.run(None, {"images": images[:batch]})[0]
            np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=limit * largest)
    if all_of_them:
        found = EngineModel(model, "openvino")(images)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * largest)
    facts = export_model(model, path, dtype="float32")
    assert facts["largest_difference"] <= 1e-5 * largest
