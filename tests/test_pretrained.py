"""Models saved and loaded, and every way in which a folder or its configuration is wrong."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from small_model import SMALL

from mixvpr_jax import (
    CosPlaceConfig,
    GeMConfig,
    InputError,
    MixVPRConfig,
    ModelConfig,
    create_model,
    from_pretrained,
    save_pretrained,
)


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
        ({"image_size": 320}, "image_size: expected"),
        ({"image_size": ["32", "32"]}, "image_size: expected"),
        ({"image_size": [32.0, 32.0]}, "image_size: expected"),
        ({"image_size": [True, True]}, "image_size: expected"),
        ({"layers_to_crop": [3.0, 4.0]}, "layers_to_crop: expected"),
        ({"aggregator": 5}, "aggregator: expected"),
        ({"aggregator": "MixVPR"}, "aggregator: expected"),
        ({"aggregator": {"name": "GeM", "p": float("inf")}}, "p: expected a number above 0"),
        ({"aggregator": {"name": "GeM", "p": True}}, "p: expected float, found True"),
        ({"dtype": "float16"}, "dtype: unknown name 'float16'; closest: bfloat16"),
        ({"arch": 50}, "arch: expected str, found 50"),
        ({"interpolation": "nearest"}, "interpolation: unknown name 'nearest'"),
        ({"interpolation": 3}, "interpolation: expected Interpolation, found 3"),
    ],
)
def test_wrong_configurations_are_named(model, tmp_path, change, message):
    save_pretrained(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"config.json: .*{message}"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("config.json", None, "expected the model's configuration"),
        ("config.json", b"{", "config.json: "),
        ("model.safetensors", None, "expected the model's weights"),
        ("model.safetensors", b"\0" * 20, "expected a whole safetensors file"),
    ],
)
def test_broken_folders_are_refused(model, tmp_path, file, content, message):
    save_pretrained(model, tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        from_pretrained(tmp_path)


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
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(create_model(SMALL, seed=5), tmp_path / "out")
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(model, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_bare_trunk_gives_its_feature_map(tmp_path):
    save_pretrained(create_model(ModelConfig("resnet18", (), None)), tmp_path)
    trunk, _ = from_pretrained(tmp_path)
    assert trunk(jnp.zeros((1, 64, 96, 3))).shape == (1, 2, 3, 512)
    shutil.rmtree(tmp_path)
