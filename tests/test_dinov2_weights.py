"""DINOv2's weights by the names of its authors, Hugging Face, timm and OpenVPRLab."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from feature_maps import PREFIX, saved
from one_program import describe
from recipe import official_shapes, recipe_state
from small_vits import TINY, drawn

from mixvpr_jax import (
    GeMConfig,
    InputError,
    ModelConfig,
    commands,
    save_pretrained,
)
from mixvpr_jax.conversion import build_model, convert_checkpoint, get_weights, to_state_dict
from mixvpr_jax.conversion.key_table import to_torch

PLAIN, REGISTERS = "dinov2_vits14", "dinov2_vits14_reg"


@pytest.mark.parametrize(
    "arch, prefix",
    [(PLAIN, ""), *((REGISTERS, p) for p in ("model.", "backbone.model.", "backbone.dino."))],
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
    state = to_timm(recipe_state(official_shapes()[PLAIN])) | {name: array}
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
    state = to_hugging_face(recipe_state(official_shapes()[PLAIN]))
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
    state = recipe_state(official_shapes()[REGISTERS])
    if change(state) is not None and "register_tokens" not in state:
        # Without registers it is another model, and a whole one.
        assert convert_checkpoint(saved(state, tmp_path / "x.pth")).model.config.arch == PLAIN
        return
    with pytest.raises(InputError, match=line):
        convert_checkpoint(saved(state, tmp_path / "dino.pth"))
