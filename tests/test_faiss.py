"""FAISS's indices: searched, exported, and what cannot be."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mixvpr_jax import InputError
from mixvpr_jax.evaluation.export_index import export_index
from mixvpr_jax.evaluation.faiss_index import FaissIndex, build_index

faiss = pytest.importorskip("faiss")
ROOT = Path(__file__).parent.parent


def descriptors(count, size=16, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF4,Flat"])
def test_search(factory):
    database = descriptors(300)
    indices, distances = FaissIndex(database, factory).search(database[:20], 3)
    assert indices.dtype == np.int32 and indices[:, 0].tolist() == list(range(20))
    assert np.allclose(distances[:, 0], 0, atol=1e-3)
    differences = np.linalg.norm(database[indices[:, 2]] - database[:20], axis=1)
    assert np.allclose(distances[:, 2], differences, atol=1e-5)


def test_half_precision():
    database = descriptors(50).astype(np.float16)
    assert FaissIndex(database).search(database, 1)[0][:, 0].tolist() == list(range(50))


@pytest.mark.parametrize(
    ("factory", "reason"),
    [("Flatt", "could not parse"), ("IVF400,Flat", "should be at least as large as")],
)
def test_indices_that_cannot_be(factory, reason):
    with pytest.raises(
        InputError, match=rf"of 60 descriptors of 16, found '{factory}': .*{reason}"
    ):
        build_index(descriptors(60), factory)


def test_too_few_neighbours():
    with pytest.raises(InputError, match="expected 40 neighbours of every query, found fewer"):
        FaissIndex(descriptors(60), "IVF8,Flat").search(descriptors(5), 40)


def test_faiss_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install 'mixvpr-jax\[faiss\]'"):
        FaissIndex(descriptors(6)).search(descriptors(5), 2)


def test_export(evaluate, labelled, tmp_path):
    evaluation = evaluate(*labelled)
    done = subprocess.run(
        [sys.executable, "-m", "mixvpr_jax.evaluation.export_index", "out", "robot.faiss"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    index = faiss.read_index(str(tmp_path / "robot.faiss"))
    _, found = index.search(evaluation.query_descriptors, 3)
    assert np.array_equal(found, evaluation.predictions)
    with (tmp_path / "robot.faiss.images.csv").open() as file:
        listed = [row["image"] for row in csv.DictReader(file)]
    assert listed == [str(path) for path in evaluation.data.database]


def test_what_cannot_be_exported(evaluate, labelled, tmp_path):
    out, file = tmp_path / "out", tmp_path / "robot.faiss"
    with pytest.raises(InputError, match=r"database_descriptors.npy: expected what eval.py writes"):
        export_index(out, file)
    evaluate(*labelled)
    (out / "database_images.csv").rename(out / "moved.csv")
    with pytest.raises(InputError, match=r"database_images.csv: expected the list of the images"):
        export_index(out, file)
    (out / "moved.csv").rename(out / "database_images.csv")
    for content in (np.zeros(3, np.float32), np.zeros((3, 2), np.int32)):
        np.save(out / "database_descriptors.npy", content)
        with pytest.raises(InputError, match=r"expected descriptors \[n, d\], found"):
            export_index(out, file)
    (out / "database_descriptors.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"expected an array of descriptors, found"):
        export_index(out, file)
    assert not file.exists()
