"""Backbones against golden feature maps and against second writings in PyTorch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import torch_or_skip as torch
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from recipe import GOLDEN, official_shapes, recipe_images, recipe_state
from reference_torch import MixVPR
from reference_training import multi_similarity

from mixvpr_jax import ModelConfig, create_model
from mixvpr_jax.conversion import build_model, get_weights
from mixvpr_jax.conversion.key_table import to_flax, to_torch
from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.losses import multi_similarity as ms_loss
from mixvpr_jax.losses.mining import multi_similarity_miner
from mixvpr_jax.training.config import OptimizerConfig
from mixvpr_jax.training.step import create_state, make_optimizer, make_step

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
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        state = without_unused(recipe_state(official_shapes()[arch], dtype))
        config = ModelConfig(arch, (), None, (size, size), dtype)
        model = build_model(config, to_flax({PREFIX + n: a for n, a in state.items()}))
        images = recipe_images(values["image_seed"], (values["batch"], 3, size, size))
        images = jnp.asarray(images.transpose(0, 2, 3, 1), dtype)
        found = np.asarray(nnx.jit(lambda model, images: model(images))(model, images))
    stride = int(golden["channel_stride"])
    means = found.mean((1, 2), dtype=np.float64) - golden["channel_mean"]
    return max(np.abs(found[..., ::stride] - golden["feature_map"]).max(), np.abs(means).max())


def drawn(config):
    """A model whose every parameter is random."""
    model = create_model(config, seed=1)
    rng = np.random.default_rng(2)
    for path, leaf in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        values = rng.normal(0.1, 0.3, leaf.shape)
        leaf[...] = jnp.asarray(1 + np.abs(values) if path[-1] == "var" else values, leaf.dtype)
    return model


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


def require_close(found, expected, tolerance=1e-12):
    """Holds an array to one of PyTorch's, relative to its largest value."""
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    limit = tolerance * max(np.abs(expected).max(), 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


# Training -----------------------------------------------------------------------------------------

RATE = 2e-3
HEAD = (8, 2, 1.0, 2)  # of MixVPR: channels, depth, ratio, rows


def batches(side, steps=3):
    """Images [16, side, side, 3] of four places, and their labels."""
    rng = np.random.default_rng(5)
    places = rng.standard_normal((steps, 4, 1, side, side, 3))
    images = 0.7 * places + rng.standard_normal((steps, 4, 4, side, side, 3))
    labels = np.repeat(np.arange(4), 4) + 4 * np.arange(steps)[:, None]
    return zip(images.reshape(steps, 16, side, side, 3), labels, strict=True)


def train(model, steps, frozen):
    """Losses of AdamW on four devices; updates the model."""
    config = OptimizerConfig("adamw", RATE, warmup_steps=1, milestones=(), layers_to_freeze=frozen)
    optimizer = make_optimizer(config, steps_per_epoch=100)
    mesh = data_mesh(jax.devices()[:4])
    options = {"mesh": mesh, "layers_to_freeze": frozen}
    step = make_step(model, optimizer, ms_loss, multi_similarity_miner, **options)
    state = jax.device_put(create_state(model, optimizer), NamedSharding(mesh, P()))
    losses = []
    for images, labels in steps:
        state, metrics = step(state, jnp.asarray(images), jnp.asarray(labels, "int32"))
        losses.append(float(metrics["loss"]))
    nnx.update(model, state.params, state.statistics)
    return losses


def train_torch(backbone, head_state, describe, steps, below):
    """The same in PyTorch, of which parameters whose names begin with `below` are frozen.

    `describe` maps a state_dict and images to a feature map [b, c, h, w].
    """
    trained = [
        array.requires_grad_()
        for name, array in backbone.items()
        if not name.startswith(below) and "running" not in name
    ]
    rows = int(head_state["row_proj.weight"].shape[1] ** 0.5)
    head = MixVPR(head_state["channel_proj.weight"].shape[1], rows, rows, *HEAD).double()
    head.load_state_dict(head_state)
    optimizer = torch.optim.AdamW([*trained, *head.parameters()], lr=RATE, weight_decay=1e-3)
    losses = []
    for images, labels in steps:
        optimizer.zero_grad()
        features = describe(backbone, channels_first(images))
        loss = multi_similarity(head(features), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
