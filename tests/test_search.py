"""The search finds what a plain loop in float64 finds, in its order, and refuses what it cannot."""

import jax
import ml_dtypes
import numpy as np
import pytest
from recipe import GOLDEN
from searches import brute_force, unit_vectors

from mixvpr_jax import InputError
from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.evaluation import search
from mixvpr_jax.evaluation.recall import hits_by_rank, recall_of
from mixvpr_jax.evaluation.search import Index


def check(queries, database, k, devices=(1, 3), **options):
    """On so many devices."""
    expected, expected_distances = brute_force(queries, database, k)
    for mesh in (data_mesh(jax.devices()[:count]) for count in devices):
        indices, distances = Index(database, mesh=mesh, **options).search(queries, k)
        assert np.array_equal(indices, expected)
        assert np.allclose(distances, expected_distances, rtol=4e-6, atol=0)
        assert (indices.dtype, distances.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_descriptors_as_a_model_gives_them(dtype):
    """JAX's arrays."""
    database = unit_vectors(70, 16, 0).astype(dtype)
    queries = unit_vectors(3, 16, 1)
    expected = Index(database).search(queries, 5)
    found = Index(jax.numpy.asarray(database)).search(jax.numpy.asarray(queries), 5)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_official_neighbours_and_recall():
    golden = np.load(GOLDEN / "retrieval.npz")
    indices, distances = Index(golden["database"]).search(golden["queries"], 20)
    assert np.array_equal(indices, golden["predictions"])
    assert np.allclose(distances**2, golden["squared_distances"], atol=1e-6)
    positives = np.split(golden["positives_flat"], golden["positives_offsets"][1:-1])
    assert any(len(found) == 0 for found in positives)
    ks = golden["k_values"].tolist()
    hundred, _ = Index(golden["database"]).search(golden["queries"], max(ks))
    recall = recall_of(hits_by_rank(hundred, positives), ks)
    official = golden["recall"] * (100 if golden["recall"].max() <= 1 else 1)
    assert np.allclose(list(recall.values()), official)


@pytest.mark.parametrize("num_database", [1, 7, 64, 65])
def test_chunks_and_padding_change_nothing(small_chunks, num_database):
    random = np.random.default_rng(num_database)
    queries = random.standard_normal((19, 5)).astype(np.float32)
    database = random.standard_normal((num_database, 5)).astype(np.float32)
    indices, distances = Index(database).search(queries, 10)
    expected, expected_distances = brute_force(queries, database, 10)
    assert indices.shape == (19, min(10, num_database))
    assert np.array_equal(indices, expected)
    assert np.allclose(distances, expected_distances, atol=1e-6)


def test_equal_distances_come_in_index_order(small_chunks):
    database = np.tile(np.eye(3, dtype=np.float32), (4, 1))
    indices, distances = Index(database).search(np.eye(3, dtype=np.float32)[:1], 6)
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
    indices, distances = Index(database).search(queries, 20)
    expected, expected_distances = brute_force(queries, database, 20)
    assert np.array_equal(indices, expected)
    assert np.allclose(distances, expected_distances, rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize("num_database", [3, 1000, 12807])
def test_devices_share_the_database(devices, num_database):
    queries, database = unit_vectors(13, 16, 0), unit_vectors(num_database, 16, 1)
    database[num_database // 2 :: 97] = database[num_database // 3]  # copies on every device
    mesh = data_mesh(jax.devices()[:devices])
    indices, distances = Index(database, mesh=mesh).search(queries, 20)
    expected, expected_distances = brute_force(queries, database, 20)
    assert np.array_equal(indices, expected)
    assert np.allclose(distances, expected_distances, rtol=1e-6)


@pytest.mark.parametrize(("count", "size"), [(5000, 256), (50_000, 64)])
def test_what_faiss_finds(count, size):
    faiss = pytest.importorskip("faiss")
    queries, database = unit_vectors(100, size, 0), unit_vectors(count, size, 1)
    index = faiss.IndexFlatL2(size)
    index.add(database)
    squared, theirs = index.search(queries, 20)
    indices, distances = Index(database).search(queries, 20)
    assert np.array_equal(indices, theirs)
    assert np.allclose(distances**2, squared, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_searched_as_it_is(dtype):
    queries, database = unit_vectors(9, 32, 0), unit_vectors(700, 32, 1).astype(dtype)
    indices, _ = Index(database).search(queries, 5)
    assert np.array_equal(indices, brute_force(queries, database.astype(np.float32), 5)[0])


def test_approximate_neighbours():
    queries, database = unit_vectors(20, 16, 0), unit_vectors(3000, 16, 1)
    indices, distances = Index(database, recall_target=0.9).search(queries, 10)
    exact = brute_force(queries, database, 10)[0]
    pairs = zip(indices, exact, strict=True)
    assert np.mean([np.isin(found, right).mean() for found, right in pairs]) >= 0.85
    assert (np.diff(distances, axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("queries", "database", "k", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 5), np.float32), 1, "descriptors of 3 and of 5 values"),
        (np.ones((2, 3)), np.ones((0, 3), np.float32), 1, r"database: expected descriptors \[rows"),
        (
            np.ones(3),
            np.ones((4, 3), np.float32),
            1,
            r"queries: expected descriptors .*, found \[3",
        ),
        (np.ones((2, 3)), np.ones((4, 3), np.int32), 1, "database: expected one of float32, "),
        (np.ones((2, 3)), np.ones((4, 3), ">f4"), 1, r"byte order, found >f4; convert"),
        (np.ones((2, 3)), np.ones((4, 3), ">f2"), 1, r"byte order, found >f2; convert"),
        (np.ones((2, 3)), np.ones((4, 3), np.float32), 0, "neighbours: expected at least 1"),
    ],
)
def test_what_cannot_be_searched(queries, database, k, message):
    with pytest.raises(InputError, match=message):
        Index(database).search(queries, k)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, np.nan])
def test_shares_of_neighbours_that_cannot_be(share):
    with pytest.raises(InputError, match="recall_target: expected a share above 0, at most 1"):
        Index(unit_vectors(5, 4, 0), recall_target=share)


def spoilt(rows, places, value):
    rows = rows.copy()
    for place in places:
        rows[place, place % rows.shape[1]] = value
    return rows


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("devices", [1, 4])
def test_what_is_not_finite_is_refused(value, devices, monkeypatch):
    monkeypatch.setattr(search, "CHECKED_ROWS", 64)
    queries, database = unit_vectors(30, 16, 0), unit_vectors(500, 16, 1)
    mesh = data_mesh(jax.devices()[:devices])
    broken = spoilt(queries, [3, 29], value)
    with pytest.raises(InputError, match=r"queries: expected finite descriptors, .* row 3, 29$"):
        Index(database, mesh=mesh).search(broken, 5)
    for place in (0, 257, 499):
        broken = spoilt(database, [place], value)
        with pytest.raises(InputError, match=rf"database: expected finite .* row {place}$"):
            Index(broken, mesh=mesh)
    with pytest.raises(InputError, match=r"row 1, 2, 3, 4, 5 and 2 more$"):
        Index(spoilt(database, range(1, 8), value), mesh=mesh)


def test_half_precision_that_is_not_finite():
    database = unit_vectors(50, 8, 0).astype(np.float16)
    with pytest.raises(InputError, match=r"database: expected finite descriptors, .* row 7$"):
        Index(spoilt(database, [7], np.inf))
    with pytest.raises(InputError, match=r"queries: expected finite descriptors, .* row 1$"):
        Index(database).search(spoilt(np.ones((2, 8)), [1], 1e300), 3)
    with pytest.raises(InputError, match=r"database: .* row 8,200$"):  # of several pieces
        Index(spoilt(np.ones((9000, 2), np.float32), [8200], np.nan))


def test_more_rows_than_indices():
    database = np.broadcast_to(np.zeros((1, 1), np.float32), (2**31, 1))
    with pytest.raises(InputError, match=r"database: expected at most 2,147,483,647 rows, found 2"):
        Index(database)


@pytest.mark.parametrize("scale", [1e-24, 1e-8, 1e-4])
def test_very_near_ones_come_in_order(scale):
    """Also where their squares are zero in float32: float64 decides what that leaves open."""
    steps = np.array([3, 1, 2, 0, 5, 4], np.float64) * scale
    database = np.zeros((6, 2), np.float32)
    database[:, 0] = steps
    indices, distances = Index(database).search(np.zeros((1, 2)), 6)
    assert indices.tolist() == [[3, 1, 2, 0, 5, 4]]
    assert np.allclose(distances[0], np.sort(steps), rtol=1e-6, atol=0)


@pytest.mark.parametrize("devices", [1, 2])
def test_descriptors_without_a_length(devices):
    """Nothing rounds there, so that all scores are as large as their bounds."""
    zeros, mesh = np.zeros((40, 4), np.float32), data_mesh(jax.devices()[:devices])
    indices, distances = Index(zeros, mesh=mesh).search(zeros[:2], 3)
    assert indices.tolist() == [[0, 1, 2]] * 2 and not distances.any()


@pytest.mark.parametrize("size", [1, 5, 64, 100])
@pytest.mark.parametrize("count", [1, 31, 32, 33, 1000])
def test_sizes(count, size):
    rng = np.random.default_rng(size)
    queries = rng.standard_normal((7, size), np.float32)
    check(queries, rng.standard_normal((count, size), np.float32), min(count, 10))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("memory_bytes", [2**30, 2**17])
def test_many_chunks_and_batches(small_chunks, memory_bytes, dtype):
    queries, database = unit_vectors(100, 24, 0), unit_vectors(3001, 24, 1).astype(dtype)
    check(queries, database, 20, memory_bytes=memory_bytes)


@pytest.mark.parametrize("spread", [0, 1e-7, 1e-4, 1e-2])
@pytest.mark.parametrize("copies", [40, 400])
def test_neighbours_that_rounding_cannot_tell_apart(copies, spread):
    rng = np.random.default_rng(copies)
    database = unit_vectors(1000, 64, 0)
    chosen = rng.choice(1000, copies, replace=False)
    database[chosen] = database[7] + spread * rng.standard_normal((copies, 64))
    beside = database[7] + np.float32(0.3) * unit_vectors(5, 64, 2)
    queries = np.concatenate([database[7:8] + np.float32(1e-3), beside, unit_vectors(3, 64, 1)])
    check(queries, database, 20, devices=(1, 3, 8))


def test_rounding_that_goes_the_same_way_in_every_value():
    """A bound that took roundings for random would miss neighbours here."""
    steps = np.float32(1) + np.arange(600, dtype=np.float32) / 4096  # bfloat16 tells 19 apart
    database = np.repeat(np.random.default_rng(0).permutation(steps)[:, None], 256, axis=1)
    queries = np.full((3, 256), 1.0625, np.float32)
    queries[1], queries[2] = 1.003, 1.1
    check(queries, database, 5)


def test_lengths_and_scales_of_all_kinds():
    rng = np.random.default_rng(3)
    database = unit_vectors(2000, 48, 1) * rng.lognormal(0, 1, (2000, 1)).astype(np.float32)
    queries = unit_vectors(20, 48, 2) * np.float32(2)
    check(queries, database, 10)
    check(1000 * queries, 1000 * database, 10)
    check(queries / 1000, database / 1000, 10)
    check(queries + 5, database + 5, 10)


@pytest.mark.parametrize("scale", [1e-19, 1e-21])
def test_squares_that_float32_cannot_hold(scale):
    queries, database = unit_vectors(9, 24, 0), unit_vectors(500, 24, 1)
    check(np.float32(scale) * queries, np.float32(scale) * database, 10)


def test_neighbours_that_get_better_and_better(monkeypatch):
    """Each chunk pushes out what was found before."""
    near = unit_vectors(1, 16, 0)
    away = unit_vectors(1500, 16, 1) * np.linspace(2, 0.01, 1500, dtype=np.float32)[:, None]
    check(near, near + away, 20)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_whole_database_in_float64(monkeypatch, dtype):
    monkeypatch.setattr(search, "MAX_CANDIDATES", 1)
    monkeypatch.setattr(search, "VALUES_AT_ONCE", 100)
    database = unit_vectors(1000, 16, 0).astype(dtype)
    database[100:900] = database[5]
    queries = unit_vectors(5, 16, 1)
    queries[0] = database[5].astype(np.float32)
    check(queries, database, 20)


def test_more_neighbours_than_candidates_are_tried():
    check(unit_vectors(3, 8, 0), unit_vectors(6000, 8, 1), 5000)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint64, np.array])
def test_numbers_of_neighbours_of_every_width(kind):
    """Such as 250 in uint8, which with a few more is 6."""
    queries, database = unit_vectors(3, 8, 0), unit_vectors(400, 8, 1)
    found = Index(database).search(queries, kind(120))
    expected = brute_force(queries, database, 120)[0]
    assert np.array_equal(found[0], expected)


def test_few_processors(monkeypatch):
    monkeypatch.setattr(search, "num_processors", lambda: 3)
    check(unit_vectors(2, 8, 0), unit_vectors(100, 8, 1), 5)
