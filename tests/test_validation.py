"""What a run is validated on: benchmarks by name, and labelled folders."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from benchmark_trees import msls_test_tree, pittsburgh_tree, set_counts, small
from folders import write_images

from mixvpr_jax import GeMConfig, InputError, ModelConfig, create_model
from mixvpr_jax.evaluation.config import EvaluationConfig
from mixvpr_jax.preprocess import Preprocess
from mixvpr_jax.training.config import ValidationConfig
from mixvpr_jax.training.validation import SETS, Selection, Validation, rename_former, set_names


def validation(*sets, interpolation="bilinear", **options):
    config = ModelConfig("resnet18", (3, 4), GeMConfig(), (32, 32), interpolation=interpolation)
    model = create_model(config)
    return Validation(ValidationConfig(tuple(map(Path, sets)), **options), model)


def test_benchmarks_and_folders_together(labelled, tmp_path, monkeypatch):
    pittsburgh_tree(tmp_path / "Pittsburgh")
    there = small("pitts30k-test", tmp_path)
    set_counts(monkeypatch, "pitts30k-test", len(there.database), len(there.queries))
    sets = validation("pitts30k-test", labelled[0].parent, data_dir=tmp_path)
    recalls = sets.recalls(lambda images: np.asarray(images).reshape(len(images), -1)[:, :99])
    names = [f"{name}/recall@{k}" for name in ("pitts30k-test", "town@7") for k in (1, 5, 10)]
    assert list(recalls) == names
    assert recalls["town@7/recall@1"] == pytest.approx(200 / 3)


def test_queries_that_are_files_of_the_database_do_not_find_themselves(labelled, caplog):
    """As in an evaluation of the same folders."""
    database, queries = labelled
    shutil.rmtree(queries)
    queries.symlink_to(database)
    recalls = validation(database.parent).recalls(lambda images: np.asarray(images)[:, :5, 5, 0])
    assert set(recalls.values()) == {0.0}  # their places are 100 m apart
    assert "recall@k counts 2 neighbours at most: queries are database photos" in caplog.text


@pytest.mark.parametrize("written", ["./pitts30k-val", "pitts30k-val/", "../here/pitts30k-val"])
def test_a_path_is_no_benchmark(labelled, tmp_path, monkeypatch, written):
    """As texts, which the command line gives; pitts30k-val alone is the benchmark."""
    (tmp_path / "here").mkdir()
    labelled[0].parent.rename(tmp_path / "here/pitts30k-val")
    monkeypatch.chdir(tmp_path / "here")
    config = tyro.cli(ValidationConfig, args=["--sets", written])
    assert config == ValidationConfig((written,))
    model = create_model(ModelConfig("resnet18", (3, 4), GeMConfig(), (32, 32)))
    assert list(Validation(config, model).sets) == ["pitts30k-val-folder"]
    line = f"dataset: expected a benchmark's name, found the path {written}; give"
    with pytest.raises(InputError, match=re.escape(line)):
        EvaluationConfig("w", "o", dataset=written)


def test_a_radius_is_of_folders_alone(labelled, tmp_path, monkeypatch):
    pittsburgh_tree(tmp_path / "Pittsburgh")
    there = small("pitts30k-test", tmp_path)
    set_counts(monkeypatch, "pitts30k-test", len(there.database), len(there.queries))

    def selection(*sets, **options):
        config = ValidationConfig(tuple(map(Path, sets)), data_dir=tmp_path, **options)
        found = validation(*sets, data_dir=tmp_path, **options)
        return replace(Selection.of(config), checksums=found.checksums)

    usual, near = (selection("pitts30k-test", positive_radius_m=r) for r in (25.0, 1.0))
    measured = {"pitts30k-test/recall@1": 50.0}
    assert near.entry(measured) == usual.entry(measured)
    former = {"step": 4, **measured}, {"step": 8, **measured, "positive_radius_m": 7.0}
    assert near.ranked(former) == usual.ranked(former) == [8, 4]

    folder, measured = labelled[0].parent, {"town@7/recall@1": 50.0}
    usual, near = (selection(folder, positive_radius_m=r) for r in (25.0, 1.0))
    assert near.entry(measured)["positive_radius_m"] == 1
    assert usual.checksums != near.checksums
    assert usual.ranked([{"step": 4, **measured}, {"step": 8, **near.entry(measured)}]) == [4]
    former = {"step": 4, **measured}, {"step": 8, **measured, "positive_radius_m": 1.0}
    assert (usual.ranked(former), near.ranked(former)) == ([4], [8])


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
    assert np.array_equal(seen[0], Preprocess((32, 32), interpolation).resize(path))


def test_a_folder_called_like_a_benchmark_has_metrics_of_its_own(labelled, tmp_path):
    for name in ("nordland", "MSLS-Val"):
        labelled[0].parent.rename(tmp_path / name)
        folder = tmp_path / name
        config = ValidationConfig((folder,))
        recalls = validation(folder).recalls(lambda images: np.asarray(images)[:, :5, 5, 0])
        assert list(recalls) == [f"{name}-folder/recall@{k}" for k in (1, 5, 10)]
        entries = [{"step": 1, f"{name}/recall@1": 5.0, "loss": 1.0}, {"step": 2}]
        rename_former(entries, config)  # as earlier versions wrote them
        assert entries == [{"step": 1, f"{name}-folder/recall@1": 5.0, "loss": 1.0}, {"step": 2}]
        for wanted in (None, f"{name}/recall@1", f"{name}-folder/recall@1"):
            chosen = replace(config, select_by=wanted)
            assert Selection.of(chosen).metric == f"{name}-folder/recall@1"
        folder.rename(labelled[0].parent)


def test_a_link_has_its_own_name(labelled, tmp_path, monkeypatch):
    """A set's, and a benchmark's, whose name a link in the current folder has, too."""
    monkeypatch.chdir(tmp_path)
    target = labelled[0].parent
    for name in ("ours", "theirs", "pitts30k-val"):
        (tmp_path / name).symlink_to(target)
    assert set_names(ValidationConfig(("pitts30k-val",))) == ("pitts30k-val",)
    config = ValidationConfig(("ours", tmp_path / "theirs", target / ".."))
    assert set_names(config) == ("ours", "theirs", target.parent.name)
    config = ValidationConfig(("ours",))
    chosen = Selection.of(replace(config, select_by=f"{target.name}/recall@5"))
    assert chosen.metric == "ours/recall@5"
    entries = [
        {"step": step, f"{target.name}/recall@1": float(step), SETS: {target.name: checksum}}
        for step, checksum in ((1, "now"), (2, "then"))
    ]
    rename_former(entries, config)  # as earlier versions wrote them
    assert replace(Selection.of(config), checksums={"ours": "now"}).ranked(entries) == [1]


def test_labels_on_one_side_are_nothing_to_validate_with(labelled):
    for path in labelled[1].iterdir():
        path.rename(path.with_name(path.name.replace("@", "")))
    with pytest.raises(InputError, match=r"here and in queries, found none in one or both"):
        validation(labelled[0].parent)


def test_a_subset_is_no_benchmark(tmp_path):
    pittsburgh_tree(tmp_path / "Pittsburgh")
    with pytest.raises(InputError, match=r"expected 10,000 database images and 6,816 queries"):
        validation("pitts30k-test", data_dir=tmp_path)


def test_where_they_lie_must_be_said(monkeypatch):
    monkeypatch.delenv("MIXVPR_DATA", raising=False)
    with pytest.raises(InputError, match=r"the folder of msls-val; give --validation.data-dir"):
        validation("msls-val")


@pytest.mark.parametrize(
    ("given", "closest"),
    [
        ("pits30k-val", "pitts30k-val"),
        ("Pitts30k_Test", "pitts30k-test"),
        ("msls_val", "msls-val"),
        ("data/mslsval", "msls-val"),
    ],
)
def test_a_mistyped_benchmark(given, closest, tmp_path):
    line = rf"validation.sets: {given}: expected a benchmark's name, or .*closest:.* {closest}"
    with pytest.raises(InputError, match=line):
        validation(given, data_dir=tmp_path)


def test_a_mistyped_folder(labelled, tmp_path):
    town = labelled[0].parent
    with pytest.raises(InputError, match=rf"found no such folder; closest: {town}"):
        validation(town.with_name(town.name.upper() + "s"))
    (tmp_path / "Benchmarks").mkdir()
    missing = tmp_path / "benchmark" / "pitts"
    line = (
        f"{missing}: expected the folder of msls-val, found no such folder; closest: {tmp_path}/B"
    )
    with pytest.raises(InputError, match=line):
        validation("msls-val", data_dir=missing)


def test_an_image_that_breaks_later(labelled, tmp_path):
    """Of a run: what was trained is saved by then, and other sets may be given."""
    town = shutil.copytree(labelled[0].parent, tmp_path / "town")
    sets = validation(town)
    sets.require_readable()
    broken = min((town / "queries").iterdir())
    broken.write_bytes(broken.read_bytes()[:-100])
    line = rf"{broken}: .*; town was not measured: fix that, or choose other --validation.sets,"
    with pytest.raises(InputError, match=line):
        sets.recalls(lambda images: np.asarray(images).reshape(len(images), -1)[:, :99])
    with pytest.raises(InputError, match="town has 1 such images: fix that, or choose other"):
        sets.require_readable()
    sets.require_readable(besides={"town"})


def test_without_ground_truth_nothing_is_measured(tmp_path, monkeypatch):
    msls_test_tree(tmp_path)
    for name in ("database", "queries"):
        write_images(tmp_path / "plain" / name, ["a.jpg"])
    for path, expected in {"msls-test": "ground truth", tmp_path / "plain": "@utm_east@"}.items():
        with pytest.raises(InputError, match=rf"expected {expected}.*, found none"):
            validation(path, data_dir=tmp_path)
