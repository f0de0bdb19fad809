import numpy as np
import pytest
from recipe import GOLDEN

from mixvpr_jax.evaluation import retrieval
from mixvpr_jax.evaluation.recall import positives_within, recall_at_k
from mixvpr_jax.evaluation.retrieval import nearest_neighbours


def brute_force(queries, database, k):
    squared = ((queries[:, None].astype(np.float64) - database[None]) ** 2).sum(2)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return order, np.sqrt(np.take_along_axis(squared, order, 1))


def test_official_neighbours_and_recall():
    golden = np.load(GOLDEN / "retrieval.npz")
    indices, distances = nearest_neighbours(golden["queries"], golden["database"], 20)
    assert np.array_equal(indices, golden["predictions"])
    assert np.allclose(distances**2, golden["squared_distances"], atol=1e-6)
    positives = np.split(golden["positives_flat"], golden["positives_offsets"][1:-1])
    assert any(len(found) == 0 for found in positives)
    ks = golden["k_values"].tolist()
    hundred, _ = nearest_neighbours(golden["queries"], golden["database"], max(ks))
    recall = recall_at_k(hundred, positives, ks)
    official = golden["recall"] * (100 if golden["recall"].max() <= 1 else 1)
    assert np.allclose(list(recall.values()), official)


@pytest.mark.parametrize("num_database", [1, 7, 64, 65])
def test_chunks_and_padding_change_nothing(monkeypatch, num_database):
    monkeypatch.setattr(retrieval, "QUERY_CHUNK", 8)
    monkeypatch.setattr(retrieval, "DATABASE_CHUNK", 16)
    random = np.random.default_rng(num_database)
    queries = random.standard_normal((19, 5)).astype(np.float32)
    database = random.standard_normal((num_database, 5)).astype(np.float32)
    indices, distances = nearest_neighbours(queries, database, 10)
    expected, expected_distances = brute_force(queries, database, 10)
    assert indices.shape == (19, min(10, num_database))
    assert np.array_equal(indices, expected)
    assert np.allclose(distances, expected_distances, atol=1e-6)


def test_equal_distances_come_in_index_order(monkeypatch):
    monkeypatch.setattr(retrieval, "DATABASE_CHUNK", 4)
    database = np.tile(np.eye(3, dtype=np.float32), (4, 1))
    indices, distances = nearest_neighbours(np.eye(3, dtype=np.float32)[:1], database, 6)
    assert indices.tolist() == [[0, 3, 6, 9, 1, 2]]
    assert distances[0, :4].tolist() == [0, 0, 0, 0]  # exactly: no cancellation


@pytest.mark.parametrize("noise", [1e-3, 1e-2, 1])
def test_near_duplicates_are_found_in_order(noise):
    random = np.random.default_rng(0)
    base = random.standard_normal(64)
    cluster = base + noise * random.standard_normal((40, 64))
    database = np.concatenate([random.standard_normal((200, 64)), cluster])
    database = (database / np.linalg.norm(database, axis=1, keepdims=True)).astype(np.float32)
    queries = base + noise * random.standard_normal((10, 64))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    indices, distances = nearest_neighbours(queries, database, 20)
    expected, expected_distances = brute_force(queries, database, 20)
    assert np.array_equal(indices, expected)
    assert np.allclose(distances, expected_distances, rtol=1e-5)


def test_recall_on_a_hand_made_case():
    predictions = np.array([[3, 1, 2], [0, 1, 2], [5, 4, 0], [2, 1, 0]])
    positives = [np.array([3]), np.array([2, 7]), np.array([], int), np.array([9])]
    assert recall_at_k(predictions, positives, [1, 2, 3, 10]) == {1: 25, 2: 25, 3: 50, 10: 50}


def test_recall_needs_a_row_a_query():
    with pytest.raises(ValueError, match="2 rows of predictions, 1 queries"):
        recall_at_k(np.zeros((2, 1), int), [np.array([0])], [1])


def test_positives_are_within_the_radius_inclusive():
    database = np.array([[0.0, 0.0], [25.0, 0.0], [25.01, 0.0], [-15.0, 20.0]])
    found = positives_within(np.array([[0.0, 0.0], [500.0, 0.0]]), database, 25)
    assert [indices.tolist() for indices in found] == [[0, 1, 3], []]
