"""The public API: create, save, load, exit to Linen, and every way in which a name is wrong."""

import json
import shutil
import sys
import types
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx
from recipe import official_shapes, recipe_state

import mixvpr_jax
from mixvpr_jax import (
    CosPlaceConfig,
    GeMConfig,
    InputError,
    MixVPRConfig,
    ModelConfig,
    create_model,
    from_pretrained,
    save_pretrained,
    to_linen,
)
from mixvpr_jax import released as released_module
from mixvpr_jax.released import RELEASED

SMALL = ModelConfig("resnet18", (3, 4), MixVPRConfig(8, 1, 1, 2), (48, 64))


@pytest.fixture(scope="module")
def model():
    return create_model(SMALL, seed=3)


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), np.uint8)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXVPR_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "gdown", None)  # as if not installed
    return tmp_path / "home"


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


def test_seeds_make_the_weights(model):
    kernel = model.backbone.conv1.kernel[...]
    assert np.array_equal(kernel, create_model(SMALL, seed=3).backbone.conv1.kernel[...])
    assert not np.array_equal(kernel, create_model(SMALL, seed=4).backbone.conv1.kernel[...])


def test_fresh_weights_are_drawn_as_the_official_ones():
    config = ModelConfig("resnet50", (4,), MixVPRConfig(256, 1, 1, 4))
    model = create_model(config)
    block = getattr(model.backbone.layer3, "1")
    assert np.std(block.conv2.kernel[...]) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    mixer = getattr(model.aggregator.mix, "0")
    assert np.std(mixer.expand.kernel[...]) == pytest.approx(0.02, rel=0.02)
    assert not np.any(mixer.expand.bias[...])
    for layer, fan_in in ((model.aggregator.channel_proj, 1024), (model.aggregator.row_proj, 400)):
        for array in (layer.kernel[...], layer.bias[...]):
            assert np.abs(array).max() <= fan_in**-0.5
        assert np.std(layer.kernel[...]) == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)


def test_config_survives_json():
    for aggregator in (None, GeMConfig(2.5), CosPlaceConfig(7), MixVPRConfig(3, 2, 1.5, 1)):
        config = ModelConfig("resnet34", (), aggregator, (100, 200), "bfloat16")
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


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


def test_views_switch_between_training_and_evaluation(model):
    images = jnp.asarray(np.random.default_rng(1).standard_normal((3, 48, 64, 3)), jnp.float32)
    training = nnx.view(model, use_running_average=False)
    before = model(images)
    assert not np.allclose(training(images), before, atol=1e-3)
    assert training.backbone.bn1.mean is model.backbone.bn1.mean  # shared, and moved by training
    assert not np.array_equal(model(images), before)


def test_weights_of_another_model_are_refused(model, tmp_path):
    save_pretrained(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["aggregator"]["mix_depth"] = 2
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"left unfilled: aggregator\.mix\.1\.expand\.bias"):
        from_pretrained(tmp_path)


def test_unknown_names_give_the_closest(tmp_path, home):
    with pytest.raises(InputError, match="resnet50_409: expected a released name.*resnet50_4096"):
        from_pretrained("resnet50_409")
    file = tmp_path / "some.ckpt"
    file.touch()
    with pytest.raises(InputError, match="found a file; convert .* convert.torch_to_flax"):
        from_pretrained(file)


def test_released_name_without_weights_gives_the_two_commands(home):
    with pytest.raises(InputError) as error:
        from_pretrained("resnet50_4096")
    line = str(error.value)
    assert "gdown 1vuz3PvnR7vxnDDLQrdHJaOA04SQrtk5L -O" in line
    assert f"python -m convert.torch_to_flax '{home}/resnet50_MixVPR_4096_channels(1024)" in line
    assert "\n" not in line
    assert not home.exists()


def fake_gdown(monkeypatch, content):
    def download(id, output, quiet):  # gdown's own argument names
        assert id in {released.drive_id for released in RELEASED.values()}
        if content is None:
            raise RuntimeError("Too many users have viewed or downloaded this file recently.")
        if isinstance(content, bytes):
            Path(output).write_bytes(content)
        else:
            torch.save(content, output)

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))


def test_released_name_is_fetched_and_converted_once(home, monkeypatch):
    state = recipe_state(official_shapes()["resnet50_mixvpr_128"])
    fake_gdown(monkeypatch, {name: torch.tensor(array) for name, array in state.items()})
    model, preprocess = from_pretrained("resnet50_128")
    assert model.config == RELEASED["resnet50_128"].config
    assert preprocess.image_size == (320, 320)
    fake_gdown(monkeypatch, None)
    monkeypatch.setitem(sys.modules, "torch", None)
    again, _ = from_pretrained("resnet50_128")
    kernel = again.aggregator.row_proj.kernel[...]
    assert np.array_equal(kernel.T, state["aggregator.row_proj.weight"])


def test_html_page_is_recognised_said_and_removed(home, monkeypatch):
    fake_gdown(monkeypatch, b"\n<!DOCTYPE html><html>Quota exceeded</html>")
    with pytest.raises(InputError, match=r"found an HTML page, now removed"):
        from_pretrained("resnet50_512")
    assert not list(home.iterdir())


def test_failed_download_leaves_nothing(home, monkeypatch):
    fake_gdown(monkeypatch, None)
    with pytest.raises(InputError, match="Too many users"):
        from_pretrained("resnet50_512")
    assert not list(home.iterdir())


def test_weights_of_another_released_model_are_refused(home):
    state = recipe_state(official_shapes()["resnet18_mixvpr_64"])
    home.mkdir()
    path = home / RELEASED["resnet50_512"].file_name
    torch.save({name: torch.tensor(array) for name, array in state.items()}, path)
    with pytest.raises(InputError, match="expected the weights of resnet50_512"):
        from_pretrained("resnet50_512")


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MIXVPR_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert released_module.cache_folder() == tmp_path / "mixvpr_jax"


def test_hub(model, tmp_path, monkeypatch):
    save_pretrained(model, tmp_path / "hub")

    def snapshot_download(repository, allow_patterns):
        assert set(allow_patterns) == {"config.json", "model.safetensors"}
        if repository != "someone/mixvpr":
            raise RuntimeError("Repository Not Found\nfor url")
        return str(tmp_path / "hub")

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    loaded, _ = from_pretrained("hf://someone/mixvpr")
    assert loaded.config == SMALL
    with pytest.raises(InputError, match="Repository Not Found for url"):
        from_pretrained("hf://someone/else")
    with pytest.raises(InputError, match="expected hf://organisation/repository"):
        from_pretrained("hf://mixvpr")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="pip install huggingface_hub"):
        from_pretrained("hf://someone/mixvpr")


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


def test_linen_gives_the_same_descriptors(model, photos):
    images = mixvpr_jax.Preprocess(SMALL.image_size)(photos)
    module, variables = to_linen(model)
    assert variables.keys() == {"params", "batch_stats"}
    names = flax.traverse_util.flatten_dict(variables, sep="/")
    assert "params/backbone/layer1/0/conv1/kernel" in names
    assert "batch_stats/backbone/layer2/1/bn2/var" in names
    assert all(isinstance(array, jax.Array) for array in names.values())
    descriptors = jax.jit(module.apply)(variables, images)
    assert np.allclose(descriptors, model(images), atol=1e-6)
    fresh = module.init(jax.random.key(0), images)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, variables)


def test_linen_trains(model, photos):
    images = mixvpr_jax.Preprocess(SMALL.image_size)(photos)
    module, variables = to_linen(model, train=True)
    descriptors, updated = module.apply(variables, images, mutable=["batch_stats"])
    trained = nnx.clone(model)
    trained.train()
    assert np.allclose(descriptors, trained(images), atol=1e-6)
    mean = updated["batch_stats"]["backbone"]["bn1"]["mean"]
    assert np.allclose(mean, trained.backbone.bn1.mean[...], atol=1e-6)
    assert not np.allclose(mean, model.backbone.bn1.mean[...], atol=1e-4)


@pytest.mark.parametrize("aggregator", [MixVPRConfig(8, 2, 1, 2), GeMConfig(), CosPlaceConfig(16)])
def test_bfloat16_keeps_float32_parameters_and_descriptors(aggregator, photos):
    config = ModelConfig("resnet18", (4,), aggregator, (64, 64), "bfloat16")
    model = create_model(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    with jax.numpy_dtype_promotion("standard"):  # Flax's LayerNorm mixes types
        descriptors = model(mixvpr_jax.Preprocess((64, 64))(photos))
    assert descriptors.dtype == jnp.float32
    assert np.allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-6)


def test_float64_needs_x64():
    with pytest.raises(InputError, match="jax_enable_x64"):
        create_model(ModelConfig(dtype="float64"))


@pytest.mark.parametrize("size", [(41, 57), (48, 64), (45, 60)])
def test_every_image_size_with_the_same_map_fits(model, size):
    assert model(jnp.zeros((1, *size, 3))).shape == (1, 16)


@pytest.mark.parametrize("size", [(40, 64), (49, 64), (48, 65), (320, 320)])
def test_other_image_sizes_name_those_that_fit(model, size):
    expected = r"height 41 to 48 and width 57 to 64 pixels \(a feature map of 6x8\)"
    with pytest.raises(InputError, match=f"{expected}, found {size[0]}x{size[1]}"):
        model(jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize("aggregator", [GeMConfig(), CosPlaceConfig(4), mixvpr_jax.ConvAPConfig(4)])
def test_pooling_takes_any_image_size(aggregator):
    model = create_model(ModelConfig("resnet18", (3, 4), aggregator))
    for size in ((31, 77), (64, 64)):
        assert model(jnp.ones((1, *size, 3))).shape == (1, model.config.descriptor_dim)


@pytest.mark.parametrize(
    "images, message",
    [
        (
            jnp.zeros((48, 64, 3)),
            r"expected shape \[batch, height, width, 3\], found \[48, 64, 3\]",
        ),
        (jnp.zeros((1, 3, 48, 64)), r"found \[1, 3, 48, 64\]"),
        (jnp.zeros((1, 48, 64, 3), jnp.uint8), "expected normalised floats, found uint8"),
    ],
)
def test_what_is_no_batch_of_normalised_images_is_refused(model, images, message):
    # Without the tests' own type check, so that the message is the one that a user sees.
    with pytest.raises(InputError, match=message):
        mixvpr_jax.models.vpr.check_images(model.config, images.shape, str(images.dtype))


def test_bare_trunk_gives_its_feature_map(tmp_path):
    save_pretrained(create_model(ModelConfig("resnet18", (), None)), tmp_path)
    trunk, _ = from_pretrained(tmp_path)
    assert trunk(jnp.zeros((1, 64, 96, 3))).shape == (1, 2, 3, 512)
    shutil.rmtree(tmp_path)
