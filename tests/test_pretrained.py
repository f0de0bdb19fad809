"""Models saved and loaded, and every way in which a folder or its configuration is wrong."""

import inspect
import json
import os
import shutil
import stat
from dataclasses import replace
from shlex import quote

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from small_model import SMALL

from mixvpr_jax import (
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    InputError,
    MixVPRConfig,
    ModelConfig,
    create_model,
    from_pretrained,
    save_pretrained,
)
from mixvpr_jax.conversion import get_weights
from mixvpr_jax.training.config import TrainConfig

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_save_and_load_give_the_same_descriptors(model, photos, tmp_path):
    save_pretrained(model, tmp_path / "out")
    loaded, preprocess = from_pretrained(tmp_path / "out")
    assert loaded.config == SMALL
    descriptors = loaded(preprocess(photos))
    assert descriptors.shape == (2, 16)
    assert descriptors.dtype == jnp.float32
    assert np.allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-6)
    assert np.array_equal(descriptors, model(preprocess(photos)))
    assert not list(tmp_path.glob(".*")), "a temporary folder was left"


def test_saving_again_replaces(model, tmp_path):
    save_pretrained(create_model(SMALL, seed=1), tmp_path)
    save_pretrained(model, tmp_path)
    loaded, _ = from_pretrained(str(tmp_path))
    assert np.array_equal(loaded.backbone.conv1.kernel[...], model.backbone.conv1.kernel[...])


def test_config_survives_json():
    for aggregator in (None, GeMConfig(2.5), CosPlaceConfig(7), MixVPRConfig(3, 2, 1.5, 1)):
        config = ModelConfig("resnet34", (), aggregator, (100, 200), "bfloat16", "bicubic")
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_of_before_interpolation_is_bilinear(model, tmp_path):
    save_pretrained(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values.pop("interpolation") == "bilinear"
    (tmp_path / "config.json").write_text(json.dumps(values))
    loaded, preprocess = from_pretrained(tmp_path)
    assert loaded.config == SMALL
    assert preprocess.interpolation == "bilinear"


def test_interpolation_is_the_models_own(model, photos, tmp_path):
    save_pretrained(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text()) | {"interpolation": "bicubic"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    loaded, preprocess = from_pretrained(tmp_path)
    assert loaded.config.interpolation == "bicubic"
    expected = Image.fromarray(photos[0]).resize((64, 48), Image.Resampling.BICUBIC)
    assert np.array_equal(preprocess.resize(photos[0]), np.asarray(expected))
    save_pretrained(loaded, tmp_path / "again")
    assert "bicubic filter" in (tmp_path / "again" / "README.md").read_text()
    assert from_pretrained(tmp_path / "again")[1] == preprocess


@pytest.mark.parametrize(
    "change, message",
    [
        ({"arch": "resnet51"}, "arch: unknown name 'resnet51'; closest: resnet50"),
        ({"layers_to_crop": [3]}, r"layers_to_crop: expected \(\), \(4,\) or \(3, 4\)"),
        ({"aggregator": {"name": "NetVLAD"}}, "aggregator name: unknown name 'NetVLAD'"),
        (
            {"aggregator": {"name": "GeM", "q": 3}},
            r"missing fields \['p'\], unknown fields \['q'\]",
        ),
        ({"colour": "blue"}, r"unknown fields \['colour'\]"),
        ({"image_size": [320]}, "image_size: expected"),
        ({"aggregator": 5}, "aggregator: expected"),
        ({"aggregator": "MixVPR"}, "aggregator: expected"),
        ({"aggregator": {"name": "GeM", "p": float("inf")}}, "p: expected a number above 0"),
        ({"aggregator": {"name": "GeM", "p": True}}, "p: expected float, found True"),
        ({"dtype": "float16"}, "dtype: unknown name 'float16'; closest: bfloat16"),
        ({"interpolation": "nearest"}, "interpolation: unknown name 'nearest'"),
    ],
)
def test_wrong_configurations_are_named(model, tmp_path, change, message):
    save_pretrained(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"config.json: .*{message}"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "names",
    [["pytorch_model.bin"], ["a b.ckpt", "c.pth"], ["model-00001-of-00002.safetensors"]],
    ids=["bin", "checkpoints", "shard"],
)
@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_of_another_form(model, tmp_path, names, missing):
    save_pretrained(model, tmp_path)
    (tmp_path / missing).unlink()
    for name in names:
        (tmp_path / name).write_bytes(b"\0")
    first = quote(str(tmp_path / names[0]))
    line = f"found no such file, but {', '.join(names)}; .* mixvpr convert to-flax {first} FOLDER"
    with pytest.raises(InputError, match=line):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_snapshot_without_its_blobs(model, tmp_path, name):
    """The hub's cache holds links, which a copy or an archive may not follow."""
    save_pretrained(model, tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("../../blobs/0123")
    with pytest.raises(
        InputError, match=rf"{name}: .* found a link to ../../blobs/0123, .* cp -rL"
    ):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("inner", ["my_model", "snapshots/0123"])
def test_the_folder_around_a_models(model, tmp_path, inner):
    save_pretrained(model, tmp_path / inner)
    found = f"no such file, but one in {tmp_path / inner}; give that folder"
    with pytest.raises(InputError, match=f"config.json: .* found {found}"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("config.json", None, "expected the model's configuration"),
        ("config.json", b"{", "config.json: "),
        ("config.json", b"", "config.json: expected the model's configuration, found an empty"),
        (
            "config.json",
            b'{"model_type": "dinov2", "image_size": 518}',
            "another program's; convert",
        ),
        ("model.safetensors", None, "expected the model's weights"),
        ("model.safetensors", b"\0" * 20, "expected a whole safetensors file"),
        ("model.safetensors", b"", "expected a whole safetensors file"),
        ("model.safetensors", LFS, r"model.safetensors: expected .* found a Git LFS pointer; git"),
        ("model.safetensors", b"Entry not found", "found: text that begins 'Entry not found'"),
        ("model.safetensors", b"\x1f\x8b\x08" + bytes(99), "found a compressed file"),
        ("model.safetensors", b" <!DOCTYPE html>", "model.safetensors: .* found an HTML page"),
        ("model.safetensors", b"PK\3\4" + bytes(99), "found one of PyTorch under that name"),
        ("config.json", LFS, r"config.json: expected .* found a Git LFS pointer; git lfs pull"),
        ("config.json", b"<html>", "config.json: expected .* found an HTML page"),
        ("config.json", b"\xff\xfe{}", "config.json: "),
    ],
)
def test_broken_folders_are_refused(model, tmp_path, file, content, message):
    save_pretrained(model, tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        from_pretrained(tmp_path)


def test_a_file_that_is_cut_short_is_told(model, tmp_path):
    save_pretrained(model, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="expected a whole safetensors file, found: .*incomplete"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_weights_of_other_floats_are_read(model, tmp_path, dtype):
    save_pretrained(model, tmp_path)
    path = tmp_path / "model.safetensors"
    weights = safetensors.numpy.load_file(path)
    stored = {name: array.astype(np.dtype(dtype)) for name, array in weights.items()}
    safetensors.numpy.save_file(stored, path, metadata={"format": "pt", "by": "someone else"})
    loaded, _ = from_pretrained(tmp_path)
    for name, array in get_weights(loaded).items():
        assert array.dtype == np.float32
        assert np.array_equal(array, stored[name].astype(np.float32))
    stored["backbone.bn1.mean"][0] = np.nan
    safetensors.numpy.save_file(stored, path)
    with pytest.raises(InputError, match="values that are not finite in: backbone.bn1.mean"):
        from_pretrained(tmp_path)


def test_a_run_in_place_of_its_model(model, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(TrainConfig().to_dict()))
    with pytest.raises(InputError, match="run: expected a model's folder, found an unfinished run"):
        from_pretrained(run)
    save_pretrained(model, run / "model")
    assert from_pretrained(str(run))[0].config == SMALL
    shutil.rmtree(run / "checkpoints")  # as somebody may copy it
    with pytest.raises(InputError, match="config.json: expected a model's .* a training run's"):
        from_pretrained(run)


def test_folders_are_as_open_as_others_of_the_user(model, tmp_path):
    """They are made in private, and shown when they are whole."""
    (tmp_path / "as_usual").mkdir()
    mask = os.umask(0o027)
    try:
        save_pretrained(model, tmp_path / "model")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750
    save_pretrained(model, tmp_path / "other")
    modes = {(tmp_path / name).stat().st_mode for name in ("as_usual", "other")}
    assert len(modes) == 1


NOT_AGGREGATORS = [object(), "MixVPR", MixVPRConfig, {"name": "GeM"}, 3]


@pytest.mark.parametrize("wrong", NOT_AGGREGATORS)
def test_aggregators_of_others_are_refused(wrong):
    with pytest.raises(
        InputError, match=r"aggregator: expected MixVPRConfig\(…\), .* or None, fou"
    ):
        ModelConfig(aggregator=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": ["float32"]}, r"dtype: unknown name \['float32'\]; closest: float32"),
        ({"arch": 50}, "arch: unknown name 50; closest: resnet50"),
        ({"arch": ["resnet50"]}, "arch: unknown name"),
        ({"dtype": jnp.bfloat16}, "dtype: unknown name"),
        ({"interpolation": None}, "interpolation: unknown name None; known: bilinear, bicubic"),
        ({"image_size": 320}, r"image_size: expected \(height, width\), found 320"),
        ({"image_size": "320"}, r"image_size: expected \(height, width\), found '320'"),
        ({"image_size": (320.0, 320)}, r"image_size: expected .* found \(320.0, 320\)"),
        ({"image_size": ["32", "32"]}, r"image_size: expected .* found \['32', '32'\]"),
        ({"image_size": (True, 320)}, r"image_size: expected .* found \(True, 320\)"),
        ({"image_size": (0, 320)}, r"image_size: expected .* found \(0, 320\)"),
        ({"image_size": (320,) * 3}, r"image_size: expected .* found \(320, 320, 320\)"),
        ({"layers_to_crop": ""}, "layers_to_crop: expected .* found ''"),
        ({"layers_to_crop": 4}, r"layers_to_crop: expected \(\), \(4,\) or \(3, 4\), found 4"),
        ({"layers_to_crop": (3.0, 4)}, r"layers_to_crop: expected .* found \(3.0, 4\)"),
        ({"layers_to_crop": (2, 3, 4)}, r"layers_to_crop: expected .* found \(2, 3, 4\)"),
    ],
)
def test_types_are_checked_where_a_configuration_is_made(options, message):
    with pytest.raises(InputError, match=message):
        ModelConfig(**options)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MixVPRConfig, {"out_channels": "64"}, "out_channels: expected int, found '64'"),
        (MixVPRConfig, {"out_channels": 64.0}, "out_channels: expected int, found 64.0"),
        (MixVPRConfig, {"mix_depth": True}, "mix_depth: expected int, found True"),
        (MixVPRConfig, {"mlp_ratio": None}, "mlp_ratio: expected float, found None"),
        (ConvAPConfig, {"s1": (2, 2)}, r"s1: expected int, found \(2, 2\)"),
        (CosPlaceConfig, {"out_dim": [512]}, r"out_dim: expected int, found \[512\]"),
        (GeMConfig, {"p": "3"}, "p: expected float, found '3'"),
    ],
)
def test_types_of_aggregators_are_checked(kind, options, message):
    with pytest.raises(InputError, match=message):
        kind(**options)


def test_a_mixer_without_hidden_units():
    config = ModelConfig("resnet18", (3, 4), MixVPRConfig(8, 1, 0.001, 2), (64, 64))
    with pytest.raises(InputError, match=r"mlp_ratio: expected at least 1/64, .* found 0.001"):
        create_model(config)


def test_lists_and_numbers_of_numpy_are_taken():
    config = ModelConfig(
        "resnet18",
        [4],
        MixVPRConfig(np.int64(8), 1, np.float32(2), np.int32(2)),
        [np.int64(48), 64],
    )
    assert config == ModelConfig("resnet18", (4,), MixVPRConfig(8, 1, 2.0, 2), (48, 64))
    assert json.loads(json.dumps(config.to_dict()))["image_size"] == [48, 64]
    assert hash(config) == hash(replace(config))


def test_models_of_no_configuration_are_refused():
    for wrong in ("resnet50_4096", None, {"arch": "resnet50"}):
        with pytest.raises(InputError, match="config: expected a ModelConfig, found"):
            inspect.unwrap(create_model)(wrong)  # past the tests' own type check


def test_weights_that_are_no_floats_are_refused(model, tmp_path):
    save_pretrained(model, tmp_path)
    path = tmp_path / "model.safetensors"
    weights = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({n: a.astype(np.int32) for n, a in weights.items()}, path)
    with pytest.raises(InputError, match=r"expected floats, found: aggregator.* \(int32\)"):
        from_pretrained(tmp_path)


def test_weights_of_another_model_are_refused(model, tmp_path):
    save_pretrained(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["aggregator"]["mix_depth"] = 2
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"left unfilled: aggregator\.mix\.1\.expand\.bias"):
        from_pretrained(tmp_path)


def test_full_disk_leaves_the_old_weights(model, tmp_path, monkeypatch):
    save_pretrained(model, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match="expected room on the disk, found: No space left"):
        save_pretrained(create_model(SMALL, seed=5), tmp_path / "out")
    with pytest.raises(InputError, match="expected room on the disk, found: No space left"):
        save_pretrained(model, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_bare_backbone_gives_its_feature_map(tmp_path):
    save_pretrained(create_model(ModelConfig("resnet18", (), None)), tmp_path)
    backbone, _ = from_pretrained(tmp_path)
    assert backbone(jnp.zeros((1, 64, 96, 3))).shape == (1, 2, 3, 512)
    shutil.rmtree(tmp_path)
