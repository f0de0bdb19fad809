"""Aggregators of others: docs/plug_ins.md, carried out, and what is refused."""

import inspect
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from runs import ARCH, tiny_config
from tiny_backbone import Tiny, TinyBackbone

from mixvpr_jax import (
    Aggregator,
    Backbone,
    GeMConfig,
    InputError,
    ModelConfig,
    Preprocess,
    create_model,
    from_pretrained,
    register_aggregator,
    register_backbone,
    save_pretrained,
    to_linen,
)
from mixvpr_jax.conversion.convert import to_state_dict
from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.evaluation.config import DescribeConfig
from mixvpr_jax.evaluation.describe import compile_encoder
from mixvpr_jax.evaluation.describer import Describer
from mixvpr_jax.export.files import export_model
from mixvpr_jax.losses import multi_similarity
from mixvpr_jax.models import plugins
from mixvpr_jax.models.normalization import BatchNorm
from mixvpr_jax.models.vpr import require_evaluation
from mixvpr_jax.training.command import parse
from mixvpr_jax.training.config import StartConfig, TrainConfig
from mixvpr_jax.training.loop import train
from mixvpr_jax.training.recipes import load_recipe
from mixvpr_jax.training.step import create_state, make_device_step, make_step

PAGE = (Path(__file__).parent.parent / "docs" / "plug_ins.md").read_text()
MODULE, USE, RECIPE, BACKBONE, USE_BACKBONE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
NAME = "my_vpr:MeanConfig"
DTYPES = ("float32", "bfloat16")


@pytest.fixture
def page(tmp_path, monkeypatch):
    """What the page's second block leaves, in a folder where its first is a module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_KNOWN", {ARCH: TinyBackbone})
    monkeypatch.delitem(sys.modules, "my_vpr", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_vpr.py").write_text(MODULE)
    found = {}
    exec(USE, found)
    yield found
    sys.modules.pop("my_vpr", None)


def forget(monkeypatch):
    """As in another process."""
    monkeypatch.setattr(plugins, "_KNOWN", {})
    monkeypatch.delitem(sys.modules, "my_vpr")


def test_the_page_runs(page, photos, capsys):
    model, config = page["model"], page["config"]
    descriptors = model(page["preprocess"](photos))
    assert descriptors.shape == (2, config.descriptor_dim) == (2, 16)
    assert descriptors.dtype == jnp.float32
    assert np.allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-6)
    assert np.array_equal(descriptors, create_model(config)(page["preprocess"](photos)))
    values = json.loads(Path("mean/config.json").read_text())
    assert values["aggregator"] == {"name": NAME, "dim": 16}
    assert f"# resnet18, {NAME}" in Path("mean/README.md").read_text()
    Path("recipe.py").write_text(RECIPE)
    recipe, description = load_recipe("./recipe.py")
    assert recipe.model.aggregator == page["MeanConfig"](256)
    with pytest.raises(SystemExit):
        parse(["./recipe.py", "--help"], "mixvpr train")
    assert "--model.aggregator.dim INT" in capsys.readouterr().out
    assert description == "The official recipe with an aggregator of one's own."


def test_a_backbone(page, photos, tmp_path, monkeypatch):
    Path("my_backbone.py").write_text(BACKBONE)
    exec(USE_BACKBONE, page)
    model, preprocess = from_pretrained("patches")
    images = preprocess(photos)
    assert np.array_equal(model(images), create_model(page["config"])(images))
    features = model.backbone(jnp.asarray(images))
    assert features.shape == (2, 3, 4, 64)
    encode = compile_encoder(model)
    assert np.allclose(encode(images), model(images), atol=1e-6)
    with pytest.raises(InputError, match=r"ONNX: .* the plug-in my_backbone:Patches"):
        export_model(model, tmp_path / "patches.onnx", dtype="float32")
    export_model(model, tmp_path / "patches.stablehlo", dtype="float32")
    with pytest.raises(InputError, match=r"layers_to_freeze: expected None with a backbone of one"):
        TrainConfig(model=StartConfig("my_backbone:Patches", (), GeMConfig()))
    with pytest.raises(InputError, match=r"layers_to_crop: expected \(\) with .*, found \(4,\)"):
        ModelConfig("my_backbone:Patches")
    with pytest.raises(InputError, match="arch: expected the plug-in my_vpr:MeanConfig to be reg"):
        ModelConfig(NAME, ())
    monkeypatch.setattr(page["my_backbone"].Patches, "stride", 8)
    with pytest.raises(InputError, match=r"Patches: expected a feature map \[1, 6, 8, 64\]"):
        create_model(page["config"])
    sys.modules.pop("my_backbone")
    forget(monkeypatch)
    with pytest.raises(InputError, match="json: arch: expected the plug-in my_backbone:Patches"):
        from_pretrained("patches")


def test_layers_of_a_plug_in_are_left_as_they_are(photos):
    """Only our own backbones are folded: a plug-in's layers may have the same names."""
    model = create_model(ModelConfig("resnet18", (3, 4), Normalised(), (48, 64)))
    model.aggregator.module.bn.mean[...] = jnp.full(128, 0.5)
    images = Preprocess((48, 64))(photos)
    assert np.allclose(compile_encoder(model)(images), model(images), atol=1e-6)


def test_a_backbone_of_our_layers_in_half_precision(photos):
    """They take images of their own dtype alone."""
    configs = [ModelConfig(ARCH, (), Normalised(), (48, 64), dtype=d) for d in DTYPES]
    exact, half = (create_model(config)(Preprocess((48, 64))(photos)) for config in configs)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - exact).max() < 0.01


def of_layer(layer):
    return create_model(ModelConfig("resnet18", (3, 4), OfLayer(layer), (48, 64)))


@pytest.mark.parametrize("layer", ["norm", "off", "attention"])
def test_layers_of_flax_are_in_evaluation_mode(layer, photos, tmp_path):
    save_pretrained(of_layer(layer), tmp_path / "model")
    model, preprocess = from_pretrained(tmp_path / "model")
    images = preprocess(photos)
    together = model(images)
    assert np.allclose(together[:1], model(images[:1]), atol=1e-6)
    assert np.allclose(compile_encoder(model)(images), together, atol=1e-6)


def test_a_backbone_of_flax_is_in_evaluation_mode(photos):
    model = create_model(ModelConfig("test_plugins:Norm", (), GeMConfig(), (48, 64)))
    images = Preprocess((48, 64))(photos)
    assert np.allclose(model(images)[:1], model(images[:1]), atol=1e-6)
    with pytest.raises(InputError, match=r"model: expected evaluation mode, found training mode"):
        model.train()
        require_evaluation(model)


@pytest.mark.parametrize(
    "layer, found", [("dropout", "RngCount"), ("buffer", "Variable"), ("array", "ndarray")]
)
def test_state_that_would_not_be_saved_is_refused(layer, found):
    line = f"OfLayer: expected state of nnx.Param and nnx.BatchStat alone, .* found {found} layer"
    with pytest.raises(InputError, match=line):
        of_layer(layer)


@pytest.mark.parametrize("layer, found", [("norm", "BatchNorm"), ("off", "Dropout")])
def test_layers_that_do_not_train_on_several_devices_are_refused(layer, found):
    line = rf"aggregator.module.layer: expected layers that .*, found flax.nnx.{found}"
    with pytest.raises(InputError, match=line):
        make_device_step(of_layer(layer), optax.sgd(0.1), multi_similarity, None)


@pytest.mark.parametrize("padding", [1, 4])
def test_padding_changes_nothing_in_a_plug_in(padding):
    """Neither the backbone nor the aggregator passes `valid` to its BatchNorm."""
    config = ModelConfig("test_plugins:Plain", (), Normalised(), (32, 40))
    optimizer, mesh, found = optax.sgd(0.1), data_mesh(jax.local_devices()[:1]), []
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 40, 3), np.uint8)
    for count in (0, padding):
        model = create_model(config)
        step = make_step(model, optimizer, multi_similarity, None, mesh)
        padded = jnp.pad(images, ((0, count), (0, 0), (0, 0), (0, 0)))
        labels = jnp.array([0, 0, 1, 1] + count * [-1], jnp.int32)
        state, metrics = step(create_state(model, optimizer), padded, labels)
        found.append(jax.tree.leaves(jax.device_get((state, metrics))))
    for one, other in zip(*found, strict=True):
        assert np.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_batch_norm_of_other_rows_than_the_batchs_images_is_refused():
    norm = BatchNorm(3, dtype="float32")
    norm.valid = jnp.ones(4, bool)
    with pytest.raises(InputError, match="expected the batch's 4 images .* found 8 rows"):
        norm(jnp.zeros((8, 1, 1, 3)))


def test_what_a_file_names_is_never_imported(page, monkeypatch):
    forget(monkeypatch)
    line = f"config.json: aggregator: expected the plug-in {NAME} .* set MIXVPR_PLUGINS=my_vpr "
    with pytest.raises(InputError, match=line):
        from_pretrained("mean")
    assert "my_vpr" not in sys.modules
    monkeypatch.setenv("MIXVPR_PLUGINS", "no_such_module")
    with pytest.raises(InputError, match="MIXVPR_PLUGINS: .*, found no_such_module .* PYTHONPATH"):
        from_pretrained("mean")
    monkeypatch.setenv("MIXVPR_PLUGINS", "my_vpr")
    assert from_pretrained("mean")[0].config.descriptor_dim == 16


def test_other_code_bases_and_runtimes(page, photos, tmp_path):
    model, images = page["model"], page["preprocess"](photos)
    module, variables = to_linen(model)
    assert np.allclose(module.apply(variables, images), model(images), atol=1e-6)
    export_model(model, tmp_path / "mean.stablehlo", dtype="float32")
    with pytest.raises(InputError, match=f"ONNX: .* the plug-in {NAME}; .* FILE.stablehlo"):
        export_model(model, tmp_path / "mean.onnx", dtype="float32")
    with pytest.raises(InputError, match=f"ONNX: .* the plug-in {NAME}"):
        from_pretrained("mean", engine="onnxruntime")
    with pytest.raises(InputError, match=f"PyTorch: .* the plug-in {NAME}"):
        to_state_dict(model)
    assert Describer(DescribeConfig(weights="mean"), model, page["preprocess"]).cached is None
    assert not list(tmp_path.glob("*.onnx"))


def test_it_is_trained(page, town, tmp_path):
    mean = page["MeanConfig"](8)
    model = StartConfig("resnet18", (3, 4), mean, (32, 40))
    config = tiny_config(town, model=model, epochs=1)
    outcome = train(config, tmp_path / "run", command="mixvpr train recipe.py")
    assert '"command": "mixvpr train recipe.py"' in (outcome.model / "README.md").read_text()
    trained, _ = from_pretrained(outcome.model)
    assert trained.config.aggregator == mean
    fresh = create_model(model.architecture, seed=config.seed)
    moved = [m.aggregator.module.linear.kernel[...] for m in (fresh, trained)]
    assert not np.allclose(*moved)


def test_classes_that_cannot_be_saved_are_refused(tmp_path, monkeypatch):
    class Local(Aggregator):
        pass

    for wrong in (Local, dict):
        with pytest.raises(InputError, match="expected a subclass of mixvpr_jax.Aggregator at the"):
            inspect.unwrap(register_aggregator)(wrong)  # past the tests' own type check
    monkeypatch.setattr(Ours, "__module__", "__main__")
    model = create_model(ModelConfig("resnet18", (3, 4), Ours(), (48, 64)))
    with pytest.raises(InputError, match="Ours: expected a plug-in of a module .*; move it into"):
        save_pretrained(model, tmp_path / "ours")
    assert not list(tmp_path.iterdir())


def test_a_setting_called_as_config_json_calls_the_plug_in_is_refused():
    class Named(Aggregator):
        name: str = "GeM"

    Named.__qualname__ = "Named"
    with pytest.raises(InputError, match="Named: expected no setting called `name`, which"):
        inspect.unwrap(register_aggregator)(Named)


@register_aggregator
class OfSizes(Aggregator):
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        object.__setattr__(self, "sizes", tuple(self.sizes))  # so that it may be hashed

    def build(self, channels, size, *, dtype, rngs):
        return lambda features: features.mean((1, 2))


def test_a_setting_of_several_numbers_is_the_same_in_json():
    """`mixvpr push` compares it with that in results.json."""
    config = ModelConfig("resnet18", (3, 4), OfSizes((1, 3)), (48, 64))
    values = config.to_dict()
    assert values == json.loads(json.dumps(values))
    assert ModelConfig.from_dict(values) == config


class NormalisedMean(nnx.Module):
    def __init__(self, channels):
        self.bn = BatchNorm(channels, dtype="float32")

    def __call__(self, features):
        return self.bn(features).mean((1, 2))


@register_aggregator
class Normalised(Aggregator):
    def build(self, channels, size, *, dtype, rngs):
        return NormalisedMean(channels)


class Layered(nnx.Module):
    def __init__(self, layer):
        self.layer = layer

    def __call__(self, features):
        return self.layer(features).mean((1, 2))


LAYERS = {
    "norm": lambda rngs: nnx.BatchNorm(128, rngs=rngs),
    "off": lambda rngs: nnx.Dropout(0.5),
    "attention": lambda rngs: nnx.MultiHeadAttention(
        2, 128, dropout_rate=0.5, decode=False, keep_rngs=False, rngs=rngs
    ),
    "dropout": lambda rngs: nnx.Dropout(0.5, rngs=rngs),
    "buffer": lambda rngs: nnx.Variable(jnp.ones(3)),
    "array": lambda rngs: np.ones(3),
}


@register_aggregator
class OfLayer(Aggregator):
    layer: str = "norm"

    def build(self, channels, size, *, dtype, rngs):
        return Layered(LAYERS[self.layer](rngs))


@register_backbone
class Norm(Backbone):
    channels, stride = 3, 1

    def build(self, *, dtype, rngs):
        return nnx.BatchNorm(3, rngs=rngs)


class PlainTiny(nnx.Module):
    def __init__(self, **given):
        self.tiny = Tiny(**given)

    def __call__(self, images):
        return self.tiny(images)


@register_backbone
class Plain(Backbone):
    channels, stride = 16, 8

    def build(self, *, dtype, rngs):
        return PlainTiny(dtype=dtype, rngs=rngs)


@register_aggregator
class Ours(Aggregator):
    flat: bool = False

    def build(self, channels, size, *, dtype, rngs):
        return lambda features: features if self.flat else features.mean((1, 2))


def test_an_output_of_another_shape_is_told():
    with pytest.raises(InputError, match=r"Ours: expected an array \[b, d\], found \[1, 6, 8, 128"):
        create_model(ModelConfig("resnet18", (3, 4), Ours(flat=True), (48, 64)))
