"""DINOv2 gives the authors' tokens, on their weights and against a second writing in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_skip as torch
from feature_maps import PREFIX, golden_error
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from one_program import describe
from reference import in_float64
from reference_dinov2 import by_torch, frozen_prefixes, positions
from reference_heads import salad
from reference_torch import MixVPR
from reference_training import multi_similarity
from small_vits import TINY, drawn

from mixvpr_jax import (
    GeMConfig,
    InputError,
    MixVPRConfig,
    ModelConfig,
    SALADConfig,
    create_model,
)
from mixvpr_jax.conversion import get_weights
from mixvpr_jax.conversion.key_table import to_torch
from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.export.files import export_model
from mixvpr_jax.losses import multi_similarity as ms_loss
from mixvpr_jax.losses.mining import multi_similarity_miner
from mixvpr_jax.models.positions import antialiased_bicubic, interpolate, offset_bicubic
from mixvpr_jax.training.config import OptimizerConfig
from mixvpr_jax.training.step import create_state, make_optimizer, make_step, parameter_groups

TRUNKS = ("dinov2_vits14", "dinov2_vits14_reg", "dinov2_vitb14")


@pytest.mark.parametrize(
    "arch, dtype, tolerance",
    [
        *((arch, "float32", 1e-5) for arch in TRUNKS),
        *((arch, "float64", 1e-11) for arch in TRUNKS[:2]),
    ],
)
def test_the_authors_feature_maps(arch, dtype, tolerance, parity):
    parity(f"feature maps of DINOv2, {dtype}", golden_error(arch, dtype), tolerance)


# Random weights, against a second writing ---------------------------------------------------------


@pytest.mark.parametrize(
    "name, size",
    [(name, (70, 42)) for name in TINY]
    + [("registers", (518, 518)), ("plain", (42, 560)), ("registers", (42, 560))],
)
def test_a_second_writing(name, size, tiny):
    with jax.enable_x64(True):
        model = drawn(name, size)
        state = {
            key.removeprefix(PREFIX): torch.from_numpy(np.array(array))
            for key, array in to_torch(get_weights(model)).items()
        }
        images = np.random.default_rng(3).standard_normal((2, *size, 3))
        ours = model.backbone.tokens(jnp.asarray(images))
    shape = TINY[name]
    theirs = by_torch(
        state,
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
        shape.heads,
        shape.num_registers,
    )
    for found, expected in zip(ours, theirs, strict=True):
        expected = expected.numpy()
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("rows, columns", [(1, 2), (3, 28), (6, 14), (16, 23), (36, 46), (40, 80)])
@pytest.mark.parametrize("registers", [0, 4])
def test_positions_are_pytorchs_to_the_last_bit(registers, rows, columns):
    grid = np.random.default_rng(0).normal(0, 0.02, (37, 37, 8)).astype(np.float32)
    taps = antialiased_bicubic if registers else offset_bicubic
    with jax.enable_x64(True):
        ours = interpolate(jnp.asarray(grid, jnp.float64), taps(rows, 37), taps(columns, 37))
    embedding = np.concatenate([np.zeros((1, 8)), grid.reshape(-1, 8)])[None]
    theirs = positions({"pos_embed": torch.from_numpy(embedding)}, rows, columns, registers)
    np.testing.assert_array_equal(np.asarray(ours).reshape(-1, 8), theirs[0, 1:].numpy())


# Models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregator", [MixVPRConfig(16, 2, 1.0, 2), GeMConfig()])
def test_a_model_describes(aggregator, tiny):
    model = create_model(ModelConfig("registers", (), aggregator, (70, 42)), seed=0)
    images = np.random.default_rng(0).standard_normal((3, 70, 42, 3)).astype(np.float32)
    found = np.asarray(describe(model, images))
    assert found.shape == (3, model.config.descriptor_dim)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.asarray(describe(model, images[1:2]))[0], found[1], atol=2e-6)


@pytest.mark.parametrize("name", TINY)
def test_export(name, tiny, tmp_path):
    """As StableHLO, with any batch."""
    model = create_model(ModelConfig(name, (), GeMConfig(), (70, 42)), seed=0)
    facts = export_model(model, tmp_path / "m.stablehlo", dtype="float32")
    assert facts["largest_difference"] < 1e-6
    program = jax.export.deserialize(bytearray((tmp_path / "m.stablehlo").read_bytes()))
    images = np.random.default_rng(0).standard_normal((3, 70, 42, 3)).astype(np.float32)
    np.testing.assert_allclose(program.call(images), describe(model, images), atol=1e-6)


def test_bfloat16_stays_near(tiny):
    config = ModelConfig("registers", (), GeMConfig(), (70, 42))
    wide = create_model(config, seed=0)
    narrow = create_model(ModelConfig("registers", (), GeMConfig(), (70, 42), "bfloat16"), seed=0)
    images = np.random.default_rng(0).standard_normal((3, 70, 42, 3)).astype(np.float32)
    ours = np.asarray(narrow(images))
    assert ours.dtype == np.float32
    assert (ours * np.asarray(wide(images))).sum(1).min() > 0.999


def test_sizes_that_are_no_multiples_of_a_patch():
    with pytest.raises(
        InputError,
        match="image_size: expected multiples of 14 pixels with dinov2_vits14, found 320x320; "
        "closest: 322x322",
    ):
        ModelConfig("dinov2_vits14", (), GeMConfig())
    with pytest.raises(InputError, match=r"layers_to_crop: expected \(\) with dinov2_vits14"):
        ModelConfig("dinov2_vits14", (4,), GeMConfig(), (322, 322))


def test_images_of_other_sizes(tiny):
    model = create_model(ModelConfig("plain", (), GeMConfig(), (42, 42)), seed=0)
    assert model(np.zeros((1, 70, 28, 3), np.float32)).shape == (1, 24)
    with pytest.raises(InputError, match="expected multiples of 14 pixels with plain, found 70x30"):
        model(np.zeros((1, 70, 30, 3), np.float32))


@pytest.mark.parametrize(
    "frozen, trained", [(None, {0, 1, "all"}), (0, {0, 1}), (1, {1}), (2, set())]
)
def test_blocks_that_are_frozen(frozen, trained, tiny):
    model = create_model(ModelConfig("registers", (), GeMConfig(), (42, 42)), seed=0)
    groups = parameter_groups(nnx.state(model, nnx.Param), frozen)
    backbone = groups["backbone"]
    for number in (0, 1):
        labels = set(jax.tree.leaves(backbone["blocks"][str(number)]))
        assert labels == {"trained" if number in trained else "frozen"}
    rest = "trained" if frozen is None else "frozen"
    for name in ("cls_token", "pos_embed", "register_tokens", "patch_embed", "mask_token"):
        assert set(jax.tree.leaves(backbone[name])) == {rest}
    assert set(jax.tree.leaves([backbone["norm"], groups["aggregator"]])) == {"trained"}


# Training -----------------------------------------------------------------------------------------

HEADS = (MixVPRConfig(8, 2, 1.0, 2), SALADConfig(3, 4, 5))


def torch_trajectory(state, steps, frozen):
    """Losses and final weights of AdamW on the second writing, with so many blocks frozen."""
    below = frozen_prefixes(frozen)
    backbone = {name.removeprefix(PREFIX): array for name, array in state.items() if PREFIX in name}
    trained = [
        array.requires_grad_() for name, array in backbone.items() if not name.startswith(below)
    ]
    head = {n: array.requires_grad_() for n, array in state.items() if n.startswith("aggr")}
    mixvpr = MixVPR(24, 3, 3, 8, 2, 1.0, 2).double()

    def describe(features, token):
        if "aggregator.dust_bin" in head:
            return salad(head, features, token)
        own = {name.removeprefix("aggregator."): array for name, array in head.items()}
        return torch.func.functional_call(mixvpr, own, features.permute(0, 3, 1, 2))

    optimizer = torch.optim.AdamW([*trained, *head.values()], lr=RATE, weight_decay=1e-3)
    losses = []
    for images, labels in steps:
        optimizer.zero_grad()
        features = by_torch(backbone, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), 3, 4)
        loss = multi_similarity(describe(*features), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    final = {PREFIX + name: array for name, array in backbone.items()} | head
    return losses, {name: array.detach().numpy() for name, array in final.items()}


RATE = 2e-3


@pytest.mark.parametrize("head", HEADS)
def test_training_with_a_frozen_block(head, tiny):
    """Six steps in float64 on four devices, equal to PyTorch's; what is frozen stays as it was."""
    rng = np.random.default_rng(5)
    places = rng.standard_normal((6, 4, 1, 42, 42, 3))
    images = (0.7 * places + rng.standard_normal((6, 4, 4, 42, 42, 3))).reshape(6, 16, 42, 42, 3)
    labels = np.repeat(np.arange(4), 4) + 4 * np.arange(6)[:, None]
    with in_float64():
        model = drawn("registers", (42, 42), aggregator=head)
        start = to_torch(get_weights(model))
        config = OptimizerConfig("adamw", RATE, warmup_steps=1, milestones=(), layers_to_freeze=1)
        optimizer = make_optimizer(config, steps_per_epoch=100)
        mesh = data_mesh(jax.devices()[:4])
        options = {"mesh": mesh, "layers_to_freeze": 1}
        step = make_step(model, optimizer, ms_loss, multi_similarity_miner, **options)
        state = jax.device_put(create_state(model, optimizer), NamedSharding(mesh, P()))
        losses = []
        for batch, places in zip(images, labels, strict=True):
            state, metrics = step(state, jnp.asarray(batch), jnp.asarray(places, "int32"))
            losses.append(float(metrics["loss"]))
        nnx.update(model, state.params, state.statistics)
        final = to_torch(get_weights(model))
    weights = {name: torch.from_numpy(np.array(array)) for name, array in start.items()}
    expected_losses, expected = torch_trajectory(weights, zip(images, labels, strict=True), 1)
    np.testing.assert_allclose(losses, expected_losses, rtol=0, atol=1e-9)
    for name, array in expected.items():
        np.testing.assert_allclose(final[name], array, rtol=0, atol=1e-8, err_msg=name)
        is_frozen = "backbone" in name and not name.startswith(
            (f"{PREFIX}blocks.1.", f"{PREFIX}norm.")
        )
        assert np.array_equal(final[name], start[name]) == is_frozen, name
