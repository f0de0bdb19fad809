"""Exported models, run by their consumers: ONNX Runtime, OpenVINO, jax.export in a bare process."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx
from one_program import describe
from onnx_graphs import run
from recipe import GOLDEN
from runs import ROOT

from mixvpr_jax import (
    BoQConfig,
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    InputError,
    MixVPRConfig,
    ModelConfig,
    Preprocess,
    create_model,
    from_pretrained,
    save_pretrained,
)
from mixvpr_jax.cli import parse
from mixvpr_jax.conversion import get_weights, weights_hash
from mixvpr_jax.export.engine import EngineModel, onnxruntime_run, openvino_run
from mixvpr_jax.export.files import export_model
from mixvpr_jax.export.graph import OPSETS, save, to_onnx
from mixvpr_jax.models.backbones import RESNETS

SIZE = (66, 80)
MIXVPR = MixVPRConfig(8, 2, 1.5, 2)
# Every ResNet, aggregator and cut, each at least once.
MODELS = [
    *(ModelConfig(arch, (3, 4), MIXVPR, SIZE) for arch in RESNETS),
    ModelConfig("resnet50", (4,), MIXVPR, SIZE),
    ModelConfig("resnet18", (), ConvAPConfig(16, 2, 3), SIZE),
    ModelConfig("resnet18", (4,), CosPlaceConfig(32), SIZE),
    ModelConfig("resnet18", (3, 4), GeMConfig(2.5), SIZE),
    ModelConfig("resnet18", (4,), BoQConfig(64, 5, 1, 2), SIZE),
    ModelConfig("resnet18", (4,), None, SIZE),
]
IMAGES = np.random.default_rng(1).standard_normal((3, *SIZE, 3)).astype(np.float32)


def drawn(config):
    """A model whose BatchNorms and biases are not those of a new one."""
    model, rng = create_model(config, seed=1), np.random.default_rng(2)
    for path, leaf in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        low, high = {"var": (0.5, 1.5), "mean": (-0.2, 0.2), "bias": (-0.1, 0.1)}.get(
            path[-1], (0, 0)
        )
        if high:
            leaf[...] = jnp.asarray(rng.uniform(low, high, leaf.shape), leaf.dtype)
    return model


@cache
def drawn_and_told(config):
    """Such a model, and what it gives for the images."""
    model = drawn(config)
    return model, np.asarray(describe(model, IMAGES))


@pytest.fixture(scope="module")
def small():
    return drawn(ModelConfig("resnet18", (3, 4), MIXVPR, SIZE))


@pytest.mark.parametrize("config", MODELS, ids=lambda c: f"{c.arch} {c.aggregator} {c.num_stages}")
def test_a_graph_computes_what_the_model_does(config):
    model, expected = drawn_and_told(config)
    found = run(to_onnx(model), IMAGES)
    assert found.shape == expected.shape
    # Each is within 2e-6 of the float64 result: ResNet-152's by JAX 1.6e-6, by ONNX Runtime 1.2e-6.
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * np.abs(expected).max())


@pytest.mark.parametrize("opset", OPSETS)
def test_any_opset_and_batch(small, opset):
    graph = to_onnx(small, opset=opset)
    assert graph.opset_import[0].version == opset
    for batch in (1, 3):
        expected = np.asarray(small(IMAGES[:batch]))
        np.testing.assert_allclose(run(graph, IMAGES[:batch]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", MODELS[-6:], ids=lambda c: str(c.aggregator))
def test_half_precision(config):
    model, expected = drawn_and_told(config)
    graph = to_onnx(model, dtype="float16")
    kinds = {weight.data_type for weight in graph.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    found = run(graph, IMAGES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2 * np.abs(expected).max())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("engine", [onnxruntime_run, openvino_run], ids=["onnxruntime", "openvino"])
def test_preprocessing_in_the_graph(tmp_path, interpolation, engine):
    """As Pillow's, but for a level in 255 on a few pixels: noise shows the edges, too."""
    config = ModelConfig("resnet18", (3, 4), MIXVPR, SIZE, interpolation=interpolation)
    model, preprocess = drawn(config), Preprocess(SIZE, interpolation)
    save(to_onnx(model, preprocess=True), tmp_path / "m.onnx")
    found = engine(tmp_path / "m.onnx")
    for shape in ((200, 280), (33, 240), (480, 80), (21, 23), (7, 5), SIZE):
        photos = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), np.uint8)
        atol = 1e-3 if shape != SIZE else 1e-6
        expected = np.asarray(model(preprocess(photos)))
        np.testing.assert_allclose(found(photos), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_compute_what_jax_does(tmp_path, small, engine):
    save_pretrained(small, tmp_path / "model")
    model, preprocess = from_pretrained(tmp_path / "model", engine=engine)
    assert (model.config, preprocess.image_size) == (small.config, SIZE)
    np.testing.assert_allclose(model(IMAGES), np.asarray(small(IMAGES)), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="images: expected normalised floats, found uint8"):
        model(np.zeros((1, *SIZE, 3), np.uint8))
    with pytest.raises(InputError, match=r"expected images of \(66, 80\), found \(66, 79\)"):
        model(IMAGES[:, :, 1:])
    for strange in (np.nan, np.inf):  # OpenVINO's descriptors of them are finite
        with pytest.raises(InputError, match="images: expected finite values, found NaN or inf"):
            model(np.where(IMAGES.max() == IMAGES, np.float32(strange), IMAGES))


WRONG = """
import sys
from pathlib import Path
from mixvpr_jax import *
from mixvpr_jax.export.files import export_model
both = from_pretrained(sys.argv[1])
by_engine, _ = from_pretrained(sys.argv[1], engine="onnxruntime")
for model, kind in ((by_engine, "EngineModel"), (both, "tuple"), (sys.argv[1], "str")):
    calls = [
        lambda: save_pretrained(model, sys.argv[2] + "/out"),
        lambda: to_linen(model),
        lambda: export_model(model, Path(sys.argv[2], "m.onnx"), dtype="float32"),
        lambda: PlaceMap(model),
    ]
    for call in calls[: 3 if kind == "EngineModel" else 4]:
        try:
            call()
        except InputError as error:
            assert str(error).startswith("model: expected a VPRModel, as "), error
            assert str(error).endswith(f"found {kind}"), error
        else:
            raise AssertionError(kind)
"""


def test_what_takes_a_jax_model_says_so(tmp_path, small):
    """In a process of its own, whose calls are not checked for types."""
    save_pretrained(small, tmp_path / "model")
    command = [sys.executable, "-c", WRONG, str(tmp_path / "model"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=120, cwd=ROOT)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_an_engine_that_is_none(tmp_path, small):
    save_pretrained(small, tmp_path / "model")
    for name in ("openvino-bf16", "onnx", "tensorrt"):
        with pytest.raises(InputError, match=f"engine: unknown name '{name}'; "):
            from_pretrained(tmp_path / "model", engine=name)


def test_an_engine_in_bfloat16(small):
    expected, found = np.asarray(small(IMAGES)), EngineModel(small, "openvino-bfloat16")(IMAGES)
    assert ((expected * found).sum(1) / np.linalg.norm(found, axis=1)).min() > 0.998


def test_an_engine_takes_a_model_that_was_trained_in_bfloat16(tmp_path, small):
    half = create_model(replace(small.config, dtype="bfloat16"))
    save_pretrained(half, tmp_path / "model")
    model, _ = from_pretrained(tmp_path / "model", engine="onnxruntime")
    full, _ = from_pretrained(tmp_path / "model", dtype="float32")
    np.testing.assert_allclose(model(IMAGES), np.asarray(full(IMAGES)), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="expected to compute in float32, found bfloat16"):
        EngineModel(half, "onnxruntime")


BARE = """
import sys
import jax, numpy
with open(sys.argv[1], "rb") as file:
    program = jax.export.deserialize(bytearray(file.read()))
numpy.save(sys.argv[3], program.call(numpy.load(sys.argv[2])))
assert not {"flax", "mixvpr_jax"} & set(sys.modules)
"""


def test_a_stablehlo_file_needs_jax_alone(tmp_path, small):
    facts = export_model(small, tmp_path / "model.stablehlo", dtype="float32")
    assert facts["platforms"] == ("cpu", "cuda", "tpu")
    np.save(tmp_path / "images.npy", IMAGES)
    names = ("model.stablehlo", "images.npy", "found.npy")
    command = [sys.executable, "-c", BARE, *(str(tmp_path / name) for name in names)]
    subprocess.run(command, check=True, timeout=120)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, np.asarray(small(IMAGES)), rtol=0, atol=1e-6)


@pytest.fixture
def folder(tmp_path, small):
    save_pretrained(small, tmp_path / "model")
    return tmp_path


def export(folder, *arguments):
    parse("export", [str(folder / "model"), *arguments], "mixvpr export")


def test_the_command_writes_the_file_and_what_it_is(folder, small, capsys):
    export(folder, str(folder / "m.onnx"))
    assert "largest difference to JAX: " in capsys.readouterr().out
    facts = json.loads((folder / "m.json").read_text())
    assert facts["weights_sha256"] == weights_hash(get_weights(small))
    assert facts["input"]["shape"] == ["batch", 66, 80, 3]
    assert facts["output"] == {"name": "descriptors", "shape": ["batch", 16]}
    assert 0 <= facts["largest_difference"] < 1e-6
    found = run(onnx.load(folder / "m.onnx"), IMAGES)
    np.testing.assert_allclose(found, np.asarray(small(IMAGES)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("m.pb", (), "expected FILE.onnx or FILE.stablehlo, found another ending"),
        ("m.onnx", ("--opset", "16"), "opset: expected 17 to 23, found 16"),
        ("m.onnx", ("--dtype", "bfloat16"), "expected dtype float32 or float16, found bfloat16"),
        (
            "m.stablehlo",
            ("--dtype", "float16"),
            "expected dtype float32 or bfloat16, found float16",
        ),
        ("m.stablehlo", ("--preprocess",), "expected FILE.onnx with --preprocess or --opset"),
        ("none/m.onnx", (), "expected a file in a folder that exists, found no "),
    ],
)
def test_what_cannot_be_exported(folder, name, options, line):
    with pytest.raises(InputError, match=line):
        export(folder, str(folder / name), *options)
    assert [path.name for path in folder.iterdir()] == ["model"]


def test_files_of_others_are_not_replaced(folder):
    export(folder, str(folder / "m.onnx"))
    export(folder, str(folder / "m.stablehlo"))
    before = (folder / "m.onnx").read_bytes()
    with pytest.raises(InputError, match=r"expected no earlier output, found m.onnx; .*overwrite"):
        export(folder, str(folder / "m.onnx"), "--dtype", "float16")
    assert (folder / "m.onnx").read_bytes() == before
    export(folder, str(folder / "m.onnx"), "--dtype", "float16", "--overwrite")
    assert len((folder / "m.onnx").read_bytes()) < len(before)
    line = r"the weights and the input of m.stablehlo, which m.json describes, found others"
    with pytest.raises(InputError, match=line):
        export(folder, str(folder / "m.onnx"), "--preprocess", "--overwrite")
    others = create_model(from_pretrained(folder / "model")[0].config, seed=1)
    others.eval()
    with pytest.raises(InputError, match=line):
        export_model(others, folder / "m.onnx", dtype="float32")
    with pytest.raises(InputError, match=r"expected no config.json of another kind beside it"):
        export(folder, str(folder / "model" / "config.onnx"))
    assert from_pretrained(folder / "model")
    for name in ("n.onnx", "n.json"):
        (folder / name).mkdir()
        with pytest.raises(InputError, match=f"{name}: expected a file to write, found a folder"):
            export(folder, str(folder / "n.onnx"))
        (folder / name).rmdir()


def test_the_code_of_the_page_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "model").rename("my_model")
    shutil.copy(GOLDEN / "street.jpg", folder)
    for name in ("model.onnx", "model.stablehlo"):
        parse("export", ["my_model", name], "mixvpr export")
    page, found = (ROOT / "docs" / "export.md").read_text(), {}
    every = []
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block.replace("(320, 320)", str(SIZE)), found)
        every.append(np.asarray(found["descriptors"]))
    assert len(every) == 3
    for descriptors in every:
        np.testing.assert_allclose(descriptors, every[0], rtol=0, atol=1e-6)


def test_training_mode_is_refused(tmp_path):
    model = create_model(ModelConfig("resnet18", (3, 4), MIXVPR, SIZE))
    model.train()
    with pytest.raises(InputError, match="expected evaluation mode, found training mode"):
        export_model(model, tmp_path / "m.stablehlo", dtype="float32")
    with pytest.raises(InputError, match="expected evaluation mode, found training mode"):
        to_onnx(model)
