"""Everything that can be wrong with an evaluation's folders, images, results and numbers."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from folders import write_images
from runs import ROOT

from mixvpr_jax import InputError, ModelConfig, create_model, save_pretrained
from mixvpr_jax.datasets.folders import read_folder


def test_one_label_missing_is_refused(evaluate, labelled):
    write_images(labelled[0], ["plain.jpg"])
    with pytest.raises(InputError, match=r"in every file name or in none.*3 of 4.*plain.jpg"):
        evaluate(*labelled)


def test_labels_in_one_folder_only_give_neighbours_without_recall(evaluate, labelled, tmp_path):
    """One's own photos, looked for in somebody's labelled database."""
    plain = write_images(tmp_path / "plain", ["a.jpg"])
    for index, pair in enumerate(((plain, labelled[1]), (labelled[0], plain))):
        evaluation = evaluate(*pair, output=tmp_path / str(index))
        assert evaluation.recall is None and "no ground truth" in evaluation.headline()
        results = json.loads((tmp_path / str(index) / "results.json").read_text())
        assert results["recall"] is None and results["protocol"]["ground_truth"] is None


@pytest.mark.parametrize("name", ["@x@4@.jpg", "@1@.jpg", "@nan@4@.jpg", "@@@a@.jpg"])
def test_labels_that_are_no_numbers_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="or, without a position, one that does not begin with @"):
        read_folder(write_images(tmp_path / "d", [name]))


def test_empty_and_absent_folders_are_refused(evaluate, labelled, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: expected images .*, found none"):
        evaluate(tmp_path / "empty", labelled[1])
    with pytest.raises(InputError, match=r"absent: expected a folder of images, found no such"):
        evaluate(labelled[0], tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_unreadable_image_among_good_ones(evaluate, labelled, tmp_path, content):
    bad = labelled[0] / "@500050.00@4100000.00@bad@.jpg"
    bad.write_bytes(content)
    with pytest.raises(InputError, match=r"@bad@.jpg: expected an image"):
        evaluate(*labelled)
    assert not (tmp_path / "out").exists()
    evaluation = evaluate(*labelled, skip_unreadable=True)
    assert len(evaluation.unreadable) == 1 and "@bad@.jpg" in evaluation.unreadable[0]
    assert len(evaluation.data.database) == 3
    assert evaluation.recall[1] == pytest.approx(200 / 3)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["num_database"] == 3 and len(results["unreadable"]) == 1


def test_nothing_readable_is_refused(evaluate, labelled):
    for path in labelled[1].iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"queries: expected at least one readable image") as found:
        evaluate(*labelled, skip_unreadable=True)
    first = min(labelled[1].iterdir())
    assert f"found none among 3, the first of them: {first}: expected an im" in str(found.value)


def test_descriptors_that_are_not_finite_are_refused(evaluate, weights, labelled, tmp_path):
    state = safetensors.numpy.load_file(weights / "model.safetensors")
    state["backbone.layer2.1.bn2.bias"] += np.float32(3e38)  # whose cube overflows in GeM
    shutil.copytree(weights, tmp_path / "broken")
    safetensors.numpy.save_file(state, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(InputError, match=r"place0@.jpg: expected a finite descriptor.*3 of 3"):
        evaluate(*labelled, weights=str(tmp_path / "broken"))
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_reached_are_named(evaluate, labelled):
    dangling = labelled[0] / "@5@5@x@.jpg"
    dangling.symlink_to("nowhere.jpg")
    with pytest.raises(InputError, match=r"@5@5@x@.jpg: expected an image, found no such file"):
        evaluate(*labelled)


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"positive_radius_m": float("nan")}])
def test_numbers_that_make_no_sense(evaluate, labelled, option):
    with pytest.raises(InputError, match=f"{next(iter(option))}: expected a number above 0"):
        evaluate(*labelled, **option)


def test_a_folder_of_an_outputs_name_is_refused(evaluate, labelled, tmp_path):
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    with pytest.raises(InputError, match=r"report.html: expected a file to write, found a folder"):
        evaluate(*labelled, overwrite=True)


def test_earlier_results_are_kept_unless_told(evaluate, labelled, tmp_path):
    evaluate(*labelled)
    before = (tmp_path / "out" / "results.json").read_bytes()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out: expected no earlier output, .*--overwrite"):
        evaluate(*labelled)
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    evaluate(*labelled, overwrite=True, positive_radius_m=1)
    assert (tmp_path / "out" / "results.json").read_bytes() != before
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_output_that_is_a_file_is_refused(evaluate, labelled, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="expected a folder for the results, found a file"):
        evaluate(*labelled)


@pytest.mark.parametrize(
    "written", ["mixvpr_jax.evaluation.evaluate.write_output", "folders.write_report"]
)
def test_full_disk_leaves_nothing(evaluate, labelled, tmp_path, monkeypatch, written):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(written, full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="expected room on the disk, found: No space left"):
        evaluate(*labelled)
    assert sorted(tmp_path.iterdir()) == before


def test_bare_backbone_is_refused(evaluate, labelled, tmp_path):
    save_pretrained(create_model(ModelConfig("resnet18", (3, 4), None)), tmp_path / "backbone")
    with pytest.raises(InputError, match="expected a whole model, found a bare backbone"):
        evaluate(*labelled, weights=str(tmp_path / "backbone"))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("places", ["PHOTO", "--output", "o"], "a folder of images"),
        ("eval", ["--database", "PHOTO", "--queries", "PHOTO"], "a folder of images"),
        (
            "eval",
            ["--dataset", "pitts30k-val", "--data-dir", "PHOTO"],
            "the folder of pitts30k-val",
        ),
        ("report", ["PHOTO"], "the output folder of an evaluation"),
        ("push", ["WEIGHTS", "hf://a/b", "--results", "PHOTO"], "the output folder of an .*"),
        ("train", ["demo", "--workdir", "o", "--data.root", "PHOTO"], "GSV-Cities .*"),
    ],
)
def test_a_file_in_place_of_a_folder(name, options, expected, weights, labelled, tmp_path):
    photo = str(next(labelled[0].iterdir()))
    words = [{"PHOTO": photo, "WEIGHTS": str(weights)}.get(word, word) for word in options]
    if name == "eval":
        words += ["--weights", str(weights), "--output", "o"]
    command = [sys.executable, "-m", "mixvpr_jax", name, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(rf"error: {photo}: expected {expected}, found a file\n", ended.stderr)
