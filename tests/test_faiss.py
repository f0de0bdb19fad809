"""FAISS's indices: searched, exported, and what cannot be."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folders import write_images

from mixvpr_jax import InputError
from mixvpr_jax.evaluation.export_index import FaissIndex, export_index

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


@pytest.mark.parametrize("factory", ["PQ4x4", "LSH", "PCA4,Flat", "IVF4,PQ4x4", "SQ4", "Flat"])
def test_distances_are_those_of_the_descriptors(factory):
    """In FAISS's own order, which compression may change."""
    database, queries = descriptors(300), descriptors(9, seed=1)
    index = FaissIndex(database, factory)
    indices, distances = index.search(queries, 200)
    assert np.array_equal(indices, index.index.search(queries, 200)[1])
    rows, columns = np.nonzero(indices >= 0)
    differences = database[indices[rows, columns]].astype(np.float64) - queries[rows]
    expected = np.linalg.norm(differences, axis=1)
    assert np.allclose(distances[rows, columns], expected, rtol=1e-6)
    assert np.isinf(distances[indices < 0]).all()


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_distances_of_any_metric(metric):
    database = descriptors(60)
    distances = FaissIndex(database, metric=metric).search(database[:5], 60)[1]
    assert np.all(distances[:, 0] == 0) and (np.diff(distances, axis=1) >= -1e-6).all()


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
        FaissIndex(descriptors(60), factory)


@pytest.mark.parametrize(
    "factory",
    [
        *("IVF0,Flat", "PCA8,IVF0,Flat", "PCA0,Flat", "RR0,Flat", "PQ1x0", "HNSW0", "HNSW1"),
        *("IVF4_HNSW0,Flat", "IVF4_HNSW1,Flat", "IVF4_HNSW1", "HNSW1,Flat", "OPQ0,Flat", "IVF00"),
    ],
)
def test_numbers_that_faiss_takes_and_fails_with(factory):
    """With an exception later, with other neighbours or by ending the process."""
    with pytest.raises(InputError, match=f"^index: expected cells, .*, found '{factory}'$"):
        FaissIndex(descriptors(60), factory)


def test_an_index_that_cannot_be_searched(monkeypatch):
    class Index:
        is_trained = True

        def add(self, rows):
            pass

        def search(self, queries, k):
            raise RuntimeError("Error in search: nothing to search")

    monkeypatch.setattr("faiss.index_factory", lambda *_: Index())
    with pytest.raises(InputError, match="found 'Flat': Error in search: nothing to search"):
        FaissIndex(descriptors(60), "Flat")


def test_fewer_neighbours_than_asked_for():
    index = FaissIndex(descriptors(60), "IVF8,Flat")
    indices, distances = index.search(descriptors(5), 40)
    assert ((indices < 0) == np.isinf(distances)).all()
    assert (indices[:, 0] >= 0).all() and (indices[:, -1] < 0).any()


def test_more_cells():
    database, queries = descriptors(300), descriptors(9, seed=1)
    for factory in ("IVF8,Flat", "PCA16,IVF8,Flat"):
        found = FaissIndex(database, factory, nprobe=8).search(queries, 40)[0]
        assert np.array_equal(found, FaissIndex(database).search(queries, 40)[0])
    with pytest.raises(InputError, match=r"faiss_nprobe: expected an index of cells, .*'HNSW8'"):
        FaissIndex(database, "HNSW8", nprobe=2)


def test_what_is_not_finite_is_refused():
    broken = descriptors(60)
    broken[[4, 50], 1] = np.nan, np.inf
    for factory in ("Flat", "IVF2,Flat"):
        with pytest.raises(InputError, match=r"database: expected finite .* row 4, 50$"):
            FaissIndex(broken, factory)
    with pytest.raises(InputError, match=r"queries: expected finite .* row 4, 50$"):
        FaissIndex(descriptors(60)).search(broken, 3)


def test_more_rows_than_indices():
    with pytest.raises(InputError, match=r"database: expected at most 2,147,483,647 rows"):
        FaissIndex(np.broadcast_to(np.zeros((1, 1), np.float32), (2**31, 1)))


class TestFewerThanTwenty:
    """Of an index that finds few, in an evaluation."""

    @pytest.fixture
    def folders(self, tmp_path):
        names = [f"@{500000 + 40 * i}.0@4000000.0@{i}@.jpg" for i in range(60)]
        database = write_images(tmp_path / "db", names)
        queries = write_images(tmp_path / "q", names[:3], seed=1)
        return database, queries

    def test_suffice_for_recall_at_1(self, evaluate, folders, tmp_path):
        how = {"index": "faiss", "faiss_factory": "IVF8,Flat"}
        few = evaluate(*folders, **how, recall_values=(1,), latency_queries=2)
        assert 1 <= few.predictions.shape[1] < 20 and few.predictions.min() >= 0
        assert np.isfinite(few.distances).all()
        lines = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
        assert len(lines) == 1 + few.predictions.size

    def test_are_too_few_for_recall_at_20(self, evaluate, folders, tmp_path):
        how = {"index": "faiss", "faiss_factory": "IVF8,Flat"}
        with pytest.raises(InputError, match=r"expected 20 neighbours .* --faiss-nprobe"):
            evaluate(*folders, **how)
        assert not (tmp_path / "out").exists()
        all_cells = evaluate(*folders, **how, faiss_nprobe=8)
        exact = evaluate(*folders, output=tmp_path / "exact")
        assert np.array_equal(all_cells.predictions, exact.predictions)
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert results["protocol"]["neighbours"] == "FAISS IVF8,Flat, nprobe 8, L2"


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
    with pytest.raises(InputError, match=r"database_descriptors.npy: expected .*No such file"):
        export_index(out, file)
    evaluate(*labelled)
    for name in ("database_descriptors.npy", "database_images.csv"):
        with pytest.raises(InputError, match=f"{name}: expected another file than those to read"):
            export_index(out, out / name)
    listed = (out / "database_images.csv").read_text()
    for some in ("", listed[: listed.rindex("\n", 0, -1)]):
        (out / "database_images.csv").write_text(some)
        with pytest.raises(InputError, match=r"database_images.csv: expected the \d+ images of"):
            export_index(out, file)
    (out / "database_images.csv").unlink()
    with pytest.raises(InputError, match=r"database_images.csv: expected the \d+ .*, found 0;"):
        export_index(out, file)
    (out / "database_images.csv").write_text(listed)
    for content in (np.zeros(3, np.float32), np.zeros((3, 2), np.int32)):
        np.save(out / "database_descriptors.npy", content)
        with pytest.raises(InputError, match=r"expected descriptors \[n, d\], found"):
            export_index(out, file)
    (out / "database_descriptors.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"expected descriptors, found"):
        export_index(out, file)
    assert not file.exists()
