"""DINOv2 gives the authors' tokens, on their weights and against a second writing in PyTorch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_skip as torch
from feature_maps import PREFIX, golden_error, saved
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from one_program import describe
from recipe import official_shapes, recipe_state
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
    commands,
    create_model,
    save_pretrained,
)
from mixvpr_jax.conversion import build_model, convert_checkpoint, get_weights, to_state_dict
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


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch, prefix",
    [(TRUNKS[0], ""), *((TRUNKS[1], p) for p in ("model.", "backbone.model.", "backbone.dino."))],
)
def test_the_authors_weights_both_ways(arch, prefix, tmp_path):
    state = recipe_state(official_shapes()[arch])
    converted = convert_checkpoint(
        saved({prefix + name: array for name, array in state.items()}, tmp_path / "dino.pth")
    )
    config = converted.model.config
    assert (config.arch, config.aggregator, config.image_size) == (arch, None, (322, 322))
    assert config.final_norm == ("dino" not in prefix)  # OpenVPRLab leaves it out
    assert f"backbone: {arch}\n" in converted.summary()
    back = to_torch(get_weights(converted.model))
    assert back.keys() == {PREFIX + name for name in state}
    for name, array in state.items():
        np.testing.assert_array_equal(back[PREFIX + name], array)


def to_hugging_face(state):
    """Written after the names of `Dinov2Model`'s parameters."""
    renamed = {}
    for name, array in state.items():
        name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        name = re.sub(r"^(cls_token|mask_token|register_tokens)", r"embeddings.\1", name)
        name = name.replace("pos_embed", "embeddings.position_embeddings")
        name = re.sub(r"^norm\.", "layernorm.", name).replace("blocks.", "encoder.layer.")
        name = re.sub(r"ls(\d)\.gamma", r"layer_scale\1.lambda1", name)
        name = name.replace("attn.proj", "attention.output.dense")
        name = name.replace("mlp.w12", "mlp.weights_in").replace("mlp.w3", "mlp.weights_out")
        if "attn.qkv" in name:
            for part, own in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = own
        else:
            renamed[name] = array
    return renamed


def to_timm(state):
    """Written after timm's `checkpoint_filter_fn` for DINOv2."""
    state = {name: array for name, array in state.items() if name != "mask_token"}
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    renames = (("mlp.w12", "mlp.fc1"), ("mlp.w3", "mlp.fc2"))
    for theirs, timms in renames:
        state = {name.replace(theirs, timms): array for name, array in state.items()}
    return state


@pytest.mark.parametrize(
    "written, prefix", [(to_hugging_face, ""), (to_hugging_face, "dinov2."), (to_timm, "")]
)
@pytest.mark.parametrize("name", TINY)
def test_weights_of_other_libraries(name, prefix, written, tiny, tmp_path):
    """They give the tokens of the model that they were written from."""
    model = drawn(name, (42, 70), "float32")
    state = {n.removeprefix(PREFIX): a for n, a in to_torch(get_weights(model)).items()}
    theirs = {prefix + key: array for key, array in written(state).items()}
    converted = convert_checkpoint(saved(theirs, tmp_path / "x.pth"), image_size=(42, 70)).model
    assert converted.config == model.config
    images = np.random.default_rng(0).standard_normal((2, 42, 70, 3)).astype(np.float32)
    for found, expected in zip(
        converted.backbone.tokens(jnp.asarray(images)),
        model.backbone.tokens(jnp.asarray(images)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("final_norm", [True, False])
def test_the_last_norm_is_said_where_a_file_cannot_tell_it(final_norm, tiny, tmp_path, capsys):
    model = drawn("plain", (28, 42), "float32", GeMConfig(), final_norm=final_norm)
    save_pretrained(model, tmp_path / "model")
    commands.to_torch(str(tmp_path / "model"), str(tmp_path / "a.safetensors"))
    line = "note: tokens pass DINOv2's last LayerNorm: SALAD's code needs norm_layer=True"
    assert (line in capsys.readouterr().out) == final_norm


def test_without_the_last_norm(tiny, tmp_path):
    """As OpenVPRLab and BoQ take tokens: after the blocks."""
    config = ModelConfig("plain", (), None, (42, 70), final_norm=False)
    model = build_model(config, get_weights(drawn("plain", (42, 70), "float32")))
    images = np.random.default_rng(0).standard_normal((2, 42, 70, 3)).astype(np.float32)
    features = describe(model, jnp.asarray(images))
    normed = model.backbone.norm(features.reshape(2, 15, 24)).reshape(features.shape)
    whole = build_model(ModelConfig("plain", (), None, (42, 70)), get_weights(model))
    np.testing.assert_allclose(describe(whole, jnp.asarray(images)), normed, atol=1e-6)
    assert np.abs(features - normed).max() > 0.1
    state = to_state_dict(model)
    assert all(name.startswith("backbone.dino.") for name in state)
    converted = convert_checkpoint(saved(state, tmp_path / "x.pth"), image_size=(42, 70)).model
    assert converted.config == ModelConfig(
        "plain", (), None, (42, 70), interpolation="bicubic", final_norm=False
    )
    # BoQ's training code up to March 2025 had an identity in its place.
    without = {name: array for name, array in state.items() if ".dino.norm." not in name}
    assert len(without) == len(state) - 2
    found = convert_checkpoint(saved(without, tmp_path / "x.pth"), image_size=(42, 70)).model
    assert found.config == converted.config
    np.testing.assert_array_equal(describe(found, jnp.asarray(images)), features)
    del state["backbone.dino.norm.bias"]
    with pytest.raises(InputError, match="unfilled: backbone.model.norm.bias"):
        convert_checkpoint(saved(state, tmp_path / "x.pth"), image_size=(42, 70))


@pytest.mark.parametrize(
    "name, array",
    [("pos_embed", np.zeros(())), ("blocks.0.mlp.fc1.weight", np.zeros(()))],
)
def test_arrays_without_axes(name, array, tmp_path):
    state = to_timm(recipe_state(official_shapes()["dinov2_vits14"])) | {name: array}
    with pytest.raises(InputError, match="x.pth: expected weights of a transformer, found other"):
        convert_checkpoint(saved(state, tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("written", "name", "other"),
    [
        (to_hugging_face, "embeddings.cls_token", "cls_token"),
        (
            to_hugging_face,
            "encoder.layer.0.attention.attention.query.bias",
            "blocks.0.attn.qkv.bias",
        ),
        (to_timm, "reg_token", "register_tokens"),
        (to_timm, "blocks.0.mlp.fc1.bias", "blocks.0.mlp.w12.bias"),
        (to_timm, "blocks.0.mlp.fc2.weight", "blocks.0.mlp.w3.weight"),
    ],
)
def test_two_names_of_one_weight(written, name, other, tiny, tmp_path):
    model = drawn("gated, registers", (42, 70), "float32")
    state = {n.removeprefix(PREFIX): a for n, a in to_torch(get_weights(model)).items()}
    state = written(state)
    state[other] = state[name]
    with pytest.raises(InputError, match=r"x.pth: expected one set of weights, found both "):
        convert_checkpoint(saved(state, tmp_path / "x.pth"), image_size=(42, 70))


def test_a_part_of_attention_is_missing(tmp_path):
    state = to_hugging_face(recipe_state(official_shapes()["dinov2_vits14"]))
    del state["encoder.layer.3.attention.attention.key.bias"]
    with pytest.raises(InputError, match=r"found no blocks\.3\.attn\.key\.bias"):
        convert_checkpoint(saved(state, tmp_path / "x.pth"))


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda s: s.pop("norm.bias"), "unfilled: backbone.model.norm.bias"),
        (lambda s: s.update(head=np.zeros(3)), "left over: .*head"),
        (lambda s: s.pop("register_tokens"), "unfilled|expected one of|left over"),
        (
            lambda s: s.update(register_tokens=np.zeros((1, 2, 384), np.float32)),
            r"found 12 blocks of 384 channels with 2 registers",
        ),
        (lambda s: s.update({"blocks.12.norm1.weight": np.zeros(384)}), "found 13 blocks of 384"),
    ],
)
def test_weights_that_do_not_fit(change, line, tmp_path):
    state = recipe_state(official_shapes()["dinov2_vits14_reg"])
    if change(state) is not None and "register_tokens" not in state:
        # Without registers it is another model, and a whole one.
        assert convert_checkpoint(saved(state, tmp_path / "x.pth")).model.config.arch == TRUNKS[0]
        return
    with pytest.raises(InputError, match=line):
        convert_checkpoint(saved(state, tmp_path / "dino.pth"))


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
