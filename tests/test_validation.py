"""What a run is validated on: benchmarks by name, and labelled folders."""

from pathlib import Path

import numpy as np
import pytest
from benchmark_trees import msls_test_tree, pittsburgh_tree, set_counts, small
from folders import write_images

from mixvpr_jax import GeMConfig, InputError, ModelConfig, create_model
from mixvpr_jax.config import ValidationConfig
from mixvpr_jax.parallel import data_mesh
from mixvpr_jax.preprocess import Preprocess
from mixvpr_jax.training.validation import Validation


def validation(*sets, interpolation="bilinear", **options):
    config = ModelConfig("resnet18", (3, 4), GeMConfig(), (32, 32), interpolation=interpolation)
    model = create_model(config)
    return Validation(ValidationConfig(tuple(map(Path, sets)), **options), model, data_mesh())


def test_benchmarks_and_folders_together(labelled, tmp_path, monkeypatch):
    pittsburgh_tree(tmp_path / "Pittsburgh")
    there = small("pitts30k-test", tmp_path)
    set_counts(monkeypatch, "pitts30k-test", len(there.database), len(there.queries))
    sets = validation("pitts30k-test", labelled[0].parent, data_dir=tmp_path)
    recalls = sets.recalls(lambda images: np.asarray(images).reshape(len(images), -1)[:, :99])
    names = [f"{name}/recall@{k}" for name in ("pitts30k-test", "town@7") for k in (1, 5, 10)]
    assert list(recalls) == names
    assert recalls["town@7/recall@1"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_photos_are_resized_as_the_model_says(labelled, interpolation):
    sets = validation(labelled[0].parent, interpolation=interpolation)
    seen = []

    def encode(images):
        seen.extend(np.asarray(images))
        return np.asarray(images).reshape(len(images), -1)[:, :99]

    sets.recalls(encode)
    (data,) = sets.sets.values()
    path = data.database[0]
    expected = Preprocess((32, 32), interpolation)(path)
    assert np.array_equal(seen[0], expected[0])


def test_a_subset_is_no_benchmark(tmp_path):
    pittsburgh_tree(tmp_path / "Pittsburgh")
    with pytest.raises(InputError, match=r"expected 10,000 database images and 6,816 queries"):
        validation("pitts30k-test", data_dir=tmp_path)


def test_where_they_lie_must_be_said(monkeypatch):
    monkeypatch.delenv("MIXVPR_DATA", raising=False)
    with pytest.raises(InputError, match=r"the folder of msls-val; give --validation.data-dir"):
        validation("msls-val")


def test_without_ground_truth_nothing_is_measured(tmp_path, monkeypatch):
    msls_test_tree(tmp_path)
    for name in ("database", "queries"):
        write_images(tmp_path / "plain" / name, ["a.jpg"])
    for path, expected in {"msls-test": "ground truth", tmp_path / "plain": "@utm_east@"}.items():
        with pytest.raises(InputError, match=rf"expected {expected}.*, found none"):
            validation(path, data_dir=tmp_path)
