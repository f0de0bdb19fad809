"""eval.py from folders to files: labelled or not, in batches, on photos, as a command."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch_or_skip as torch
from folders import write_images
from PIL import ExifTags, Image
from recipe import GOLDEN, official_shapes, recipe_state
from runs import small_disk
from shared import once

from mixvpr_jax import from_pretrained, save_pretrained, storage
from mixvpr_jax.conversion import convert_checkpoint
from mixvpr_jax.datasets.folders import read_folder
from mixvpr_jax.evaluation.describe import compile_encoder, describe_images
from mixvpr_jax.evaluation.output import OUTPUTS

ROOT = GOLDEN.parent.parent
PHOTOS = ROOT.parent / "shared" / "images"
needs_photos = pytest.mark.skipif(
    not PHOTOS.is_dir(), reason=f"the photos are not ours to ship; none at {PHOTOS}"
)
PHOTO_SETS = [
    pytest.param("photos", GOLDEN / "photos", id="drawn"),
    pytest.param("real_images", PHOTOS, id="taken", marks=needs_photos),
]


@pytest.fixture(scope="session")
def official_512(tmp_path_factory):

    def convert(folder):
        state = recipe_state(official_shapes()["resnet50_mixvpr_512"])
        torch.save({n: torch.tensor(a) for n, a in state.items()}, folder / "official.ckpt")
        save_pretrained(convert_checkpoint(folder / "official.ckpt").model, folder / "model")
        return folder / "model"

    return once(tmp_path_factory, "official_512", convert)


def test_labelled_folders(evaluate, labelled, tmp_path):
    evaluation = evaluate(*labelled)
    assert evaluation.predictions[:, 0].tolist()[:2] == [0, 1]
    assert evaluation.recall == pytest.approx(dict.fromkeys((1, 5, 10, 20), 200 / 3))
    assert evaluation.headline() == "R@1: 66.7, R@5: 66.7, R@10: 66.7, R@20: 66.7"
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted(OUTPUTS)
    results = json.loads((out / "results.json").read_text())
    assert results["recall"] == pytest.approx({str(k): 200 / 3 for k in (1, 5, 10, 20)})
    assert (results["num_database"], results["num_queries"]) == (3, 3)
    assert results["num_queries_without_positives"] == 1
    assert results["protocol"]["positive_radius_m"] == 25
    database = np.load(out / "database_descriptors.npy")
    queries = np.load(out / "query_descriptors.npy")
    assert database.shape == queries.shape == (3, 128)
    assert database.dtype == np.float32
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert [row["correct"] for row in rows if row["rank"] == "1"] == ["1", "1", "0"]
    for row in rows:
        q = [path.name for path in evaluation.data.queries].index(Path(row["query"]).name)
        d = [path.name for path in evaluation.data.database].index(Path(row["prediction"]).name)
        distance = np.linalg.norm(queries[q] - database[d])
        assert float(row["descriptor_distance"]) == pytest.approx(distance, abs=2e-6)
    # All at distance 0, so that no threshold tells the query without positives from the others.
    assert results["confidence"] == {
        "num_queries_with_positives": 2,
        "average_precision": pytest.approx(200 / 3),
        "precision_at_recall": {str(at): pytest.approx(200 / 3) for at in range(10, 101, 10)},
        "thresholds": {"100": None, "95": None},
    }
    assert "66.66" in (out / "report.html").read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_radius_counts(evaluate, labelled):
    recall = evaluate(*labelled, positive_radius_m=23.5).recall
    assert set(recall.values()) == {0}


def test_unlabelled_folders_have_no_recall(evaluate, tmp_path):
    database = write_images(tmp_path / "d", ["a.jpg", "b.png", "c.JPG", "d.webp"])
    (database / "notes.txt").write_text("no image")
    (database / "deep" / "er").mkdir(parents=True)
    write_images(database / "deep" / "er", ["e.jpeg"])
    queries = write_images(tmp_path / "q", ["one.jpg"])
    evaluation = evaluate(database, queries)
    assert evaluation.recall is None
    assert evaluation.predictions.shape == (1, 5)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["recall"] is results["confidence"] is None
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert {row["correct"] for row in csv.DictReader(file)} == {""}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_batches_change_nothing_and_compile_once(weights, labelled, batch_size):
    model, preprocess = from_pretrained(weights)
    paths = read_folder(labelled[0]).paths
    traced = []
    call = type(model).__call__

    def counting(self, images):
        traced.append(images.shape)
        return call(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "__call__", counting)
        described = describe_images(
            compile_encoder(model), preprocess, paths, batch_size=batch_size
        )
    assert traced == [(min(batch_size, 3), 64, 64, 3)]
    single = np.concatenate([model(preprocess(path)) for path in paths])
    assert np.allclose(described.descriptors, single, atol=1e-6)


def test_linked_folders_are_followed(labelled, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "town").symlink_to(labelled[0])
    assert len(read_folder(tmp_path / "links").paths) == 3


def test_names_in_no_known_encoding(evaluate, labelled, tmp_path):
    name = os.fsdecode(b"@1@1@caf\xe9\n,@.jpg")
    source = next(labelled[0].iterdir())
    (labelled[0] / name).write_bytes(source.read_bytes())
    evaluate(*labelled)
    assert b"caf\xe9" in (tmp_path / "out" / "predictions.csv").read_bytes()


def test_huge_batches_are_cut_to_the_images(evaluate, labelled):
    assert evaluate(*labelled, batch_size=10**9).recall[1] == pytest.approx(200 / 3)


def test_a_folder_that_exists_is_written_from_inside(evaluate, labelled, tmp_path, monkeypatch):
    """As for a mount point, next to which a temporary folder lies on another file system."""
    (tmp_path / "out").mkdir()
    made, make_locked = [], storage._make_locked

    def noting(where, name):
        made.append(where)
        return make_locked(where, name)

    monkeypatch.setattr("mixvpr_jax.storage._make_locked", noting)
    evaluate(*labelled)
    assert made[0] == tmp_path / "out"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(OUTPUTS)


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "eval.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env=os.environ | environment,
    )


def test_command_prints_recall(weights, labelled, tmp_path):
    bad = labelled[0] / "@500050.00@4100000.00@bad@.jpg"
    bad.write_bytes(b"")
    arguments = ["--weights", weights, "--database", labelled[0], "--queries", labelled[1]]
    arguments += ["--output", tmp_path / "out"]
    refused = command(*arguments)
    assert refused.returncode == 2
    assert refused.stderr == f"error: {bad}: expected an image, found an empty file\n"
    done = command(*arguments, "--skip-unreadable", "--positive-radius-m", "30")
    assert done.returncode == 0, done.stderr
    assert "skipped 1 unreadable image" in done.stdout
    assert "R@1: 66.7, R@5: 66.7, R@10: 66.7, R@20: 66.7" in done.stdout.splitlines()


def test_no_transfer_of_the_command_is_implicit(weights, labelled, tmp_path):
    arguments = ["--weights", weights, "--database", labelled[0], "--queries", labelled[1]]
    arguments += ["--output", tmp_path / "out", "--saliency-queries", "1"]
    done = command(*arguments, JAX_TRANSFER_GUARD="disallow")
    assert done.returncode == 0, done.stderr


def test_what_the_command_prints(weights, labelled, tmp_path):
    query = max(labelled[1].iterdir())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    with Image.open(query) as image:
        image.save(query, exif=exif)
    out = tmp_path / "results (my model's)"
    folders = ["--database", labelled[0], "--queries", labelled[0].parent, "--output", out]
    lines = command("--weights", weights, *folders, "--latency-queries", "0").stdout.splitlines()
    assert "1 images were turned upright by their EXIF orientation" in lines[0]
    assert "3 of 6 queries are files of the database: each is left out" in lines[-3]
    assert shlex.split(lines[-1]) == ["report:", str(out / "report.html")]  # can be pasted


def test_command_names_the_closest_weights(labelled, tmp_path):
    arguments = ["--database", labelled[0], "--queries", labelled[1], "--output", tmp_path / "out"]
    result = command("--weights", "resnet50_409", *arguments, MIXVPR_HOME=str(tmp_path / "home"))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "closest: resnet50_4096" in result.stderr


def test_command_on_a_really_full_disk(weights, labelled):
    arguments = ["--weights", weights, "--database", labelled[0], "--queries", labelled[1]]
    with small_disk("16k") as folder:
        result = command(*arguments, "--output", folder / "out")
        assert result.returncode == 2
        assert result.stderr.splitlines()[-1].startswith("error: ")
        assert "No space left on device" in result.stderr
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("name", "photos"), PHOTO_SETS)
def test_official_descriptors_of_photos(name, photos, official_512, tmp_path, parity):
    golden = np.load(GOLDEN / f"{name}_resnet50_mixvpr_512.npz")
    arguments = ["--database", photos / "database", "--queries", photos / "queries"]
    result = command("--weights", official_512, *arguments, "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "no ground truth" in result.stdout
    folders = ("database", "query")
    parts = [np.load(tmp_path / "out" / f"{name}_descriptors.npy") for name in folders]
    error = np.abs(np.concatenate(parts) - golden["descriptors"]).max()
    parity("photos through `mixvpr eval`, float32", error, 3e-6)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    names, count = golden["files"].tolist(), int(golden["num_database"])
    for query, path in enumerate(names[count:]):
        mine = [row for row in rows if Path(row["query"]).name == Path(path).name][:5]
        official = [Path(names[index]).name for index in golden["predictions"][query]]
        assert [Path(row["prediction"]).name for row in mine] == official
        squared = [float(row["descriptor_distance"]) ** 2 for row in mine]
        assert np.allclose(squared, golden["squared_distances"][query], atol=1e-5)


@pytest.mark.parametrize(("name", "photos"), PHOTO_SETS)
def test_bfloat16_descriptors_of_photos(name, photos, official_512, parity):
    golden = np.load(GOLDEN / f"{name}_resnet50_mixvpr_512.npz")
    paths = [photos / file for file in golden["files"]]
    half, preprocess = from_pretrained(official_512, dtype="bfloat16")
    described = describe_images(compile_encoder(half), preprocess, paths, batch_size=8)
    cosine = (described.descriptors * golden["descriptors"]).sum(1)
    parity("the same photos in bfloat16, 1 - cosine", 1 - cosine.min(), 1e-3)
    assert cosine.min() < 1 - 1e-6  # half precision it was
