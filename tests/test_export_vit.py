"""ONNX graphs of DINOv2 give the authors' feature maps, and what JAX computes of them."""

import json

import numpy as np
import onnx
import pytest
from one_program import describe
from onnx_graphs import run
from recipe import GOLDEN, official_shapes, recipe_images, recipe_state
from small_vits import TINY, drawn

from mixvpr_jax import (
    BoQConfig,
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    InputError,
    MixVPRConfig,
    ModelConfig,
    Preprocess,
    SALADConfig,
)
from mixvpr_jax.conversion import build_model
from mixvpr_jax.conversion.key_table import to_flax
from mixvpr_jax.export import graph as graphs
from mixvpr_jax.export.engine import EngineModel, onnxruntime_run
from mixvpr_jax.export.files import export_model
from mixvpr_jax.export.graph import OPSETS, to_onnx

SIZE = (70, 42)
AGGREGATORS = [
    MixVPRConfig(8, 2, 1.5, 2),
    ConvAPConfig(16, 2, 3),
    CosPlaceConfig(32),
    GeMConfig(),
    SALADConfig(5, 6, 7),
    BoQConfig(128, 9, 2, 3),
    None,
]
IMAGES = np.random.default_rng(1).standard_normal((3, *SIZE, 3)).astype(np.float32)


def test_the_authors_feature_map(parity):
    golden = np.load(GOLDEN / "trunk_dinov2_vits14.npz")
    values = json.loads(str(golden["config"]))
    size = values["image_size"]
    state = recipe_state(official_shapes()["dinov2_vits14"])
    config = ModelConfig("dinov2_vits14", (), None, (size, size))
    model = build_model(config, to_flax({f"backbone.model.{n}": a for n, a in state.items()}))
    images = recipe_images(values["image_seed"], (values["batch"], 3, size, size))
    found = run(to_onnx(model), images.transpose(0, 2, 3, 1).astype(np.float32))
    error = np.abs(found[..., :: int(golden["channel_stride"])] - golden["feature_map"]).max()
    parity("feature maps of DINOv2 by ONNX Runtime, float32", error, 1e-5)


@pytest.mark.parametrize(
    "name, aggregator",
    [("registers", each) for each in AGGREGATORS]
    + [(name, AGGREGATORS[0]) for name in TINY if name != "registers"]
    + [("gated", AGGREGATORS[4]), ("gated, registers", None)],
    ids=str,
)
def test_a_graph_computes_what_the_model_does(name, aggregator, tiny):
    model = drawn(name, SIZE, "float32", aggregator)
    expected = np.asarray(describe(model, IMAGES))
    largest = np.abs(expected).max()
    for opset in (OPSETS[0], OPSETS[-1]):
        graph = to_onnx(model, opset=opset)
        for batch in (1, 3):
            found = run(graph, IMAGES[:batch])
            assert found.shape == expected[:batch].shape
            np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=2e-6 * largest)
    half = to_onnx(model, dtype="float16")
    kinds = {weight.data_type for weight in half.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    found = run(half, IMAGES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * largest)


@pytest.mark.parametrize("aggregator", [AGGREGATORS[0], AGGREGATORS[4]], ids=str)
def test_preprocessing_in_the_graph(aggregator, tiny):
    """Of images of the model's own size: nothing to resize, and so nothing to round."""
    model = drawn("registers", SIZE, "float32", aggregator, projection=6)
    photos = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    expected = np.asarray(model(Preprocess(SIZE)(photos)))
    found = run(to_onnx(model, preprocess=True), photos)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    larger = run(to_onnx(model, preprocess=True), photos.repeat(2, 1).repeat(3, 2))
    assert larger.shape == (2, 6)


def test_tokens_before_the_last_norm(tiny):
    model = drawn("registers", SIZE, "float32", None, final_norm=False)
    expected, found = np.asarray(model(IMAGES)), run(to_onnx(model), IMAGES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_half_precision_is_safe(tiny):
    """Softmax is computed in float32, and tokens whose squares overflow float16 do no harm."""
    model = drawn("registers", SIZE, "float32", GeMConfig())
    model.backbone.cls_token[...] += 500.0
    half = to_onnx(model, dtype="float16")
    makers = {node.output[0]: node for node in half.graph.node}
    softmax = [node for node in half.graph.node if node.op_type == "Softmax"]
    casts = [makers[node.input[0]] for node in softmax]
    assert [cast.attribute[0].i for cast in casts] == [onnx.TensorProto.FLOAT] * 2
    expected = np.asarray(model(IMAGES))
    np.testing.assert_allclose(run(half, IMAGES), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["registers", "gated"])
def test_engines_compute_what_jax_does(name, engine, tiny):
    model = drawn(name, SIZE, "float32", MixVPRConfig(8, 2, 1.5, 2))
    found = EngineModel(model, engine)(IMAGES)
    np.testing.assert_allclose(found, np.asarray(model(IMAGES)), rtol=0, atol=1e-6)


def test_an_engine_in_bfloat16(tiny):
    model = drawn("registers", SIZE, "float32", MixVPRConfig(8, 2, 1.5, 2))
    expected, found = np.asarray(model(IMAGES)), EngineModel(model, "openvino-bfloat16")(IMAGES)
    assert ((expected * found).sum(1) / np.linalg.norm(found, axis=1)).min() > 0.998


# Weights beyond what a file of ONNX holds ---------------------------------------------------------


@pytest.fixture
def large(tiny, monkeypatch):
    """A model whose weights do not fit."""
    monkeypatch.setattr(graphs, "LARGEST", 20_000)
    return drawn("registers", SIZE, "float32", GeMConfig())


def test_a_large_model_has_a_second_file(large, tmp_path):
    facts = export_model(large, tmp_path / "m.onnx", dtype="float32")
    assert facts["external_data"] == "m.onnx.data"
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data", "m.json"}
    assert json.loads((tmp_path / "m.json").read_text())["external_data"] == "m.onnx.data"
    assert (tmp_path / "m.onnx").stat().st_size < 40_000 < (tmp_path / "m.onnx.data").stat().st_size
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    found = onnxruntime_run(tmp_path / "m.onnx")(IMAGES)
    np.testing.assert_allclose(found, np.asarray(large(IMAGES)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_run_a_large_model(large, engine):
    found = EngineModel(large, engine)(IMAGES)
    np.testing.assert_allclose(found, np.asarray(large(IMAGES)), rtol=0, atol=1e-6)


def test_a_large_graph_that_differs_is_not_written(large, tmp_path, monkeypatch):
    other = drawn("plain", SIZE, "float32", GeMConfig())
    monkeypatch.setattr(graphs, "to_onnx", lambda model, **options: to_onnx(other, **options))
    with pytest.raises(InputError, match="nothing was written"):
        export_model(large, tmp_path / "m.onnx", dtype="float32")
    assert list(tmp_path.iterdir()) == []
