"""`mixvpr pca`: projections learned of descriptors, and the models that hold them."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from folders import write_images
from PIL import Image

from mixvpr_jax import (
    ConvAPConfig,
    InputError,
    MixVPRConfig,
    ModelConfig,
    create_model,
    from_pretrained,
    save_pretrained,
    to_linen,
)
from mixvpr_jax.cli import parse
from mixvpr_jax.conversion import build_model, get_weights, to_state_dict
from mixvpr_jax.evaluation.config import DescribeConfig
from mixvpr_jax.evaluation.describe import compile_encoder, compile_saliency
from mixvpr_jax.evaluation.photos import describe_photos
from mixvpr_jax.evaluation.projection import learn_projection, project
from mixvpr_jax.export.files import export_model
from mixvpr_jax.model_card import model_card
from mixvpr_jax.training.config import StartConfig
from mixvpr_jax.training.start import initial_model

SMALL = ModelConfig("resnet18", (3, 4), MixVPRConfig(8, 1, 1, 2), (48, 64))


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def descriptors(count=400, length=48, seed=0):
    """Of unit norm, with a mean and variances that fall from direction to direction."""
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.standard_normal((length, length)))[0]
    spread = random.standard_normal((count, length)) * 0.9 ** np.arange(length)
    return unit(spread @ rotation + random.standard_normal(length))


def applied(projection, rows):
    return rows.astype(np.float64) @ projection.kernel + projection.bias


def distances(rows):
    rows = np.asarray(rows, np.float64)
    return np.linalg.norm(rows[:, None] - rows[None], axis=2)


each_way = pytest.mark.parametrize("whiten", [False, True])


@each_way
@pytest.mark.parametrize("size", [1, 16, 48])
def test_as_scikit_learn(size, whiten):
    """Components have no sign of their own: values agree up to it, distances fully."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    learned, asked = descriptors().astype(np.float64), descriptors(50, seed=1).astype(np.float64)
    projection = learn_projection(learned, size, whiten=whiten)
    pca = decomposition.PCA(size, whiten=whiten, svd_solver="full").fit(learned)
    found, expected = applied(projection, asked), pca.transform(asked)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(distances(found), distances(expected), atol=1e-8)
    assert projection.explained == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-10)


@each_way
@pytest.mark.parametrize("size", [1, 16])
def test_as_faiss(size, whiten):
    """Its covariance is float32, which the weakest directions are lost in (0.7 % of the 48th).

    Its whitening divides by the sum of squares, not by their mean.
    """
    faiss = pytest.importorskip("faiss")
    learned, asked = descriptors(), descriptors(50, seed=1)
    matrix = faiss.PCAMatrix(48, size, -0.5 if whiten else 0.0)
    matrix.train(learned)
    scale = np.sqrt(len(learned) - 1) if whiten else 1.0
    found = applied(learn_projection(learned, size, whiten=whiten), asked)
    expected = scale * distances(matrix.apply(asked))
    np.testing.assert_allclose(distances(found), expected, atol=1e-3)


def by_svd(rows, size):
    """Projected rows, by the singular vectors of the centred ones."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:size].T


def test_what_a_projection_is():
    learned = descriptors()
    plain, white = (learn_projection(learned, 12, whiten=whiten) for whiten in (False, True))
    np.testing.assert_allclose(plain.kernel.T @ plain.kernel, np.eye(12), atol=1e-12)
    np.testing.assert_allclose(applied(plain, learned).mean(0), 0, atol=1e-7)
    np.testing.assert_allclose(np.cov(applied(white, learned).T), np.eye(12), atol=1e-6)
    variances = applied(plain, learned).var(0)
    assert (np.diff(variances) < 0).all() and 0.5 < plain.explained == white.explained < 1
    largest = plain.kernel[np.abs(plain.kernel).argmax(0), np.arange(12)]
    assert (largest > 0).all()


def test_rows_are_read_in_chunks(tmp_path):
    """More rows than a chunk; memory for a chunk and the covariance alone."""
    learned = descriptors(9_000, 32)
    file = np.memmap(tmp_path / "d", np.float32, "w+", shape=learned.shape)
    file[:] = learned
    tracemalloc.start()
    projection = learn_projection(file, 8)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1024 * 32 * 8 * 4 < learned.astype(np.float64).nbytes
    found = applied(projection, learned)
    np.testing.assert_allclose(np.abs(found), np.abs(by_svd(learned, 8)), atol=1e-8)


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [
        (12, 12, "expected more than 12 photos to learn 12 directions from, found 12; take more"),
        (400, 49, "size: expected 1 to 48, the model's descriptors, found 49"),
        (400, 0, "size: expected 1 to 48, the model's descriptors, found 0"),
    ],
)
def test_sizes_that_cannot_be(count, size, message):
    with pytest.raises(InputError, match=message):
        learn_projection(descriptors(count), size)


def test_directions_without_variance():
    """Photos that show less than is asked for; whitening would blow up their rounding."""
    random = np.random.default_rng(0)
    few = unit(random.standard_normal((400, 5)) @ random.standard_normal((5, 48)))
    assert learn_projection(few, 5).explained == pytest.approx(1)
    for whiten, rank in ((False, 5), (True, 5)):
        message = f"expected at most {rank}, the directions in which .* found 6; take more and"
        with pytest.raises(InputError, match=message):
            learn_projection(few, 6, whiten=whiten)
    same = np.repeat(descriptors(1), 30, axis=0)
    with pytest.raises(InputError, match="expected at most 0, "):
        learn_projection(same, 2)
    # A direction too weak to be whitened in float32, but not to be kept.
    weak = few.copy()
    weak[:, 0] += 1e-5 * random.standard_normal(400).astype(np.float32)
    assert learn_projection(weak, 6).kernel.shape == (48, 6)
    with pytest.raises(InputError, match="at most 5, .* vary by more than 0.0001, found 6"):
        learn_projection(weak, 6, whiten=True)


# Models -------------------------------------------------------------------------------------------


def projected(model, size=6, *, whiten=False):
    length = model.config.descriptor_dim
    return project(model, learn_projection(descriptors(200, length), size, whiten=whiten))


def expected_of(model, images):
    """By the projection's definition, in float64, of the model's own descriptors."""
    weights, base = get_weights(model), replace(model.config, projection=None)
    plain = {n: a for n, a in weights.items() if not n.startswith("projection.")}
    rows = np.asarray(build_model(base, plain)(images), np.float64)
    rows = rows @ weights["projection.kernel"].astype(np.float64) + weights["projection.bias"]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


IMAGES = np.random.default_rng(1).standard_normal((3, 48, 64, 3)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("whiten", [False, True])
def test_a_model_that_holds_one(tmp_path, dtype, whiten):
    model = projected(create_model(replace(SMALL, dtype=dtype), seed=3), whiten=whiten)
    found = np.asarray(model(IMAGES))
    assert found.shape == (3, 6) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected_of(model, IMAGES), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    save_pretrained(model, tmp_path / "m")
    again, _ = from_pretrained(tmp_path / "m")
    assert again.config == model.config and again.config.descriptor_dim == 6
    np.testing.assert_array_equal(np.asarray(again(IMAGES)), found)
    compiled = np.asarray(compile_encoder(model)(IMAGES))
    np.testing.assert_allclose(compiled, found, atol=1e-2 if dtype == "bfloat16" else 2e-6)


def test_linen_and_saliency():
    model = projected(create_model(SMALL, seed=3))
    module, variables = to_linen(model)
    linen = np.asarray(module.apply(variables, IMAGES))
    np.testing.assert_allclose(linen, np.asarray(model(IMAGES)), atol=1e-6)
    maps = np.asarray(compile_saliency(model)(IMAGES[:2]))
    plain = create_model(SMALL, seed=3)
    assert np.isfinite(maps).all() and maps.max() == 1
    assert not np.allclose(maps, np.asarray(compile_saliency(plain)(IMAGES[:2])), atol=1e-3)


@pytest.mark.parametrize("aggregator", [MixVPRConfig(8, 1, 1, 2), ConvAPConfig(8)])
@pytest.mark.parametrize(
    ("name", "dtype"), [("m.onnx", "float32"), ("h.onnx", "float16"), ("m.stablehlo", "float32")]
)
def test_exports_take_it(tmp_path, name, dtype, aggregator):
    pytest.importorskip("onnxruntime")
    config = replace(SMALL, aggregator=aggregator)
    for whiten in (False, True):
        model = projected(create_model(config, seed=3), whiten=whiten)
        facts = export_model(model, tmp_path / name, dtype=dtype)  # held to JAX before it is there
        assert facts["output"]["shape"] == ["batch", 6]
        assert facts["model"]["projection"] == 6


def test_exports_of_strong_whitening(tmp_path):
    """Photos that hardly differ: each direction is scaled by a thousand."""
    pytest.importorskip("onnxruntime")
    random = np.random.default_rng(0)
    alike = unit(random.standard_normal(16) + 1e-3 * random.standard_normal((300, 16)))
    model = create_model(SMALL, seed=3)
    model = project(model, learn_projection(alike, 8, whiten=True))
    assert np.linalg.norm(get_weights(model)["projection.kernel"], axis=0).max() > 1e3
    export_model(model, tmp_path / "m.onnx", dtype="float32")


def test_pytorch_has_none():
    with pytest.raises(InputError, match="found a projection to 6 values; convert what it was"):
        to_state_dict(projected(create_model(SMALL)))


def test_it_is_learned_when_a_model_is_trained(tmp_path):
    save_pretrained(projected(create_model(SMALL)), tmp_path / "m")
    start = StartConfig("resnet18", (3, 4), SMALL.aggregator, (48, 64), init=str(tmp_path / "m"))
    with pytest.raises(InputError, match="with projection None, found 6; start from the model"):
        initial_model(start, seed=0)


@pytest.mark.parametrize("size", [0, -1, 2.5, "6", True])
def test_configurations_that_are_wrong(size):
    with pytest.raises(InputError, match="projection: expected a whole number above 0, found"):
        replace(SMALL, projection=size)
    with pytest.raises(InputError, match="projection: expected an aggregator with it, found none"):
        replace(SMALL, aggregator=None, projection=6)


def test_files_of_models_without_one_stay_as_they_are():
    assert "projection" not in SMALL.to_dict()
    assert ModelConfig.from_dict(SMALL.to_dict()) == SMALL
    wide = replace(SMALL, projection=6)
    assert ModelConfig.from_dict(json.loads(json.dumps(wide.to_dict()))) == wide
    card = model_card(wide)
    assert "a descriptor of 6 values and unit norm (projected from 16)" in card
    assert "## Parity" in model_card(SMALL) and "## Parity" not in card


# The command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twenty photos that differ: stripes of many directions and colours."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for index in range(20):
        small = random.integers(0, 256, (2 + index % 5, 2 + index % 7, 3), np.uint8)
        Image.fromarray(small).resize((70, 60)).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "small"
    save_pretrained(create_model(replace(SMALL, dtype="bfloat16"), seed=3), folder)
    return folder


def learn(photos, weights, output, size, *more):
    words = [photos, "--weights", weights, "-o", output, "--size", size, "--batch-size", 8, *more]
    parse("pca", [str(word) for word in words], "mixvpr pca")


def test_the_command(photos, weights, tmp_path, capsys):
    """In float32, of a model that computes in bfloat16, as the new one then does."""
    learn(photos, weights, tmp_path / "m", 5, "--dtype", "float32")
    told = capsys.readouterr().out
    assert told.startswith("20 descriptors of 16 values to 5, ") and str(tmp_path / "m") in told
    model, _ = from_pretrained(tmp_path / "m")
    assert model.config == replace(SMALL, dtype="bfloat16", projection=5)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "Descriptors of small are projected to 5 values by PCA, learned of 20 photos" in card
    plain, short = (
        describe_photos(
            photos,
            tmp_path / f"{folder.name}.npy",
            DescribeConfig(weights=str(folder), dtype="float32", batch_size=8),
        ).descriptors
        for folder in (weights, tmp_path / "m")
    )
    np.testing.assert_allclose(distances(short), distances(unit(by_svd(plain, 5))), atol=1e-3)
    with pytest.raises(InputError, match="without a projection, found one to 5 values; give"):
        learn(photos, tmp_path / "m", tmp_path / "n", 3)
    with pytest.raises(InputError, match="m: expected no such folder, found one; choose another"):
        learn(photos, weights, tmp_path / "m", 4)
    with pytest.raises(InputError, match="expected another folder than that of --weights"):
        learn(photos, weights, weights, 4, "--overwrite")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match="file: expected a folder for the model, found a file; choose"
    ):
        learn(photos, weights, tmp_path / "file", 4, "--overwrite")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match="found a link to nowhere, which is not there"):
        learn(photos, weights, tmp_path / "link", 4)
    learn(photos, weights, tmp_path / "m", 4, "--overwrite")
    assert from_pretrained(tmp_path / "m")[0].config.descriptor_dim == 4


@pytest.mark.parametrize(
    ("size", "message"),
    [(20, "expected 1 to 16"), (17, "expected 1 to 16"), (0, "expected 1 to 16")],
)
def test_sizes_are_told_before_photos_are_read(photos, weights, tmp_path, size, message):
    with pytest.raises(InputError, match=message):
        learn(photos, weights, tmp_path / "m", size)
    assert not list(tmp_path.iterdir())


def test_too_few_photos(weights, tmp_path):
    write_images(tmp_path / "photos", ["a.jpg", "b.jpg"])
    (tmp_path / "photos" / "b.jpg").write_bytes(b"no photo")  # found out after the other check
    with pytest.raises(InputError, match="expected more than 2 photos to learn 2 .*, found 2"):
        learn(tmp_path / "photos", weights, tmp_path / "m", 2)
    with pytest.raises(InputError, match="expected more than 1 photos .*, found 1"):
        learn(tmp_path / "photos", weights, tmp_path / "m", 1, "--skip-unreadable")
    assert not (tmp_path / "m").exists()
