import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from recipe import GOLDEN

from mixvpr_jax import InputError
from mixvpr_jax.datasets.positions import positives_within
from mixvpr_jax.distributed import AXIS, data_mesh
from mixvpr_jax.evaluation import cpu_search, retrieval
from mixvpr_jax.evaluation.recall import recall_at_k
from mixvpr_jax.evaluation.retrieval import Index, nearest_neighbours
from mixvpr_jax.evaluation.selection import Candidates, better_of_chunk


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
    monkeypatch.setattr(retrieval, "QUERIES", 8)
    monkeypatch.setattr(retrieval, "CPU_ROWS", 16)
    random = np.random.default_rng(num_database)
    queries = random.standard_normal((19, 5)).astype(np.float32)
    database = random.standard_normal((num_database, 5)).astype(np.float32)
    indices, distances = nearest_neighbours(queries, database, 10)
    expected, expected_distances = brute_force(queries, database, 10)
    assert indices.shape == (19, min(10, num_database))
    assert np.array_equal(indices, expected)
    assert np.allclose(distances, expected_distances, atol=1e-6)


def test_equal_distances_come_in_index_order(monkeypatch):
    monkeypatch.setattr(retrieval, "CPU_ROWS", 4)
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


def unit_vectors(count, size, seed):
    rows = np.random.default_rng(seed).standard_normal((count, size), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize("num_database", [3, 1000, 12807])
def test_devices_share_the_database(devices, num_database):
    queries, database = unit_vectors(13, 16, 0), unit_vectors(num_database, 16, 1)
    database[num_database // 2 :: 97] = database[num_database // 3]  # copies on every device
    mesh = data_mesh(jax.devices()[:devices])
    indices, distances = nearest_neighbours(queries, database, 20, mesh=mesh)
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
    indices, distances = nearest_neighbours(queries, database, 20)
    assert np.array_equal(indices, theirs)
    assert np.allclose(distances**2, squared, atol=1e-5)


@pytest.mark.parametrize("copies", [40, 400])
@pytest.mark.parametrize("spread", [0, 1e-7])
def test_more_that_are_as_near_than_candidates(copies, spread):
    """Which of them are found is not left to rounding."""
    random = np.random.default_rng(copies)
    database = unit_vectors(1000, 64, 0)
    chosen = random.choice(1000, copies, replace=False)
    database[chosen] = database[7] + spread * random.standard_normal((copies, 64))
    queries = np.concatenate([database[7:8] + np.float32(1e-3), unit_vectors(3, 64, 1)])
    indices, _ = nearest_neighbours(queries, database, 20)
    assert np.array_equal(indices, brute_force(queries, database, 20)[0])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_searched_as_it_is(dtype):
    queries, database = unit_vectors(9, 32, 0), unit_vectors(700, 32, 1).astype(dtype)
    indices, _ = nearest_neighbours(queries, database, 5)
    assert np.array_equal(indices, brute_force(queries, database.astype(np.float32), 5)[0])


@pytest.mark.parametrize("devices", [1, 2])
def test_a_database_on_disk_is_read_chunk_by_chunk(tmp_path, monkeypatch, devices):
    database = unit_vectors(1000, 8, 1)
    np.save(tmp_path / "database.npy", database)
    mapped = np.load(tmp_path / "database.npy", mmap_mode="r")
    monkeypatch.setattr(retrieval, "CPU_ROWS", 64)
    monkeypatch.setattr(cpu_search, "CACHED_BYTES", 2**17)
    read = []

    class Watched(np.memmap):
        def __getitem__(self, key):
            found = super().__getitem__(key)
            read.append(len(found))
            return found

    mesh = data_mesh(jax.devices()[:devices])
    queries = unit_vectors(5, 8, 0)
    indices, _ = nearest_neighbours(queries, mapped.view(Watched), 3, mesh=mesh)
    assert np.array_equal(indices, brute_force(queries, database, 3)[0])
    assert max(read) <= 128


@pytest.mark.parametrize("megabytes", [1, 8, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_budget_is_kept(megabytes, dtype, monkeypatch):
    """By what XLA says that the program takes, and two chunks in memory."""
    monkeypatch.setattr(retrieval, "CPU_ROWS", 10**9)
    mesh = data_mesh(jax.devices()[:1])
    database = np.zeros((200_000, 64), dtype)
    search = retrieval._Search(database, 20, mesh, megabytes << 20, None)
    rows, block = search._cut(500, 32)
    assert rows == len(database) or rows > 64  # no more is cut than must be
    divided = NamedSharding(mesh, P(AXIS))
    shape = (1, block, 32)
    known = Candidates(
        jax.ShapeDtypeStruct(shape, np.float32, sharding=divided),
        jax.ShapeDtypeStruct(shape, np.int32, sharding=divided),
        jax.ShapeDtypeStruct((1,), np.float32, sharding=divided),
    )
    queries = jax.ShapeDtypeStruct((block, 64), np.float32)
    chunk = jax.ShapeDtypeStruct((rows, 64), dtype, sharding=divided)
    limits = (np.int32(0), np.int32(0), np.int32(len(database)))
    compiled = better_of_chunk.lower(known, queries, chunk, *limits, mesh, None).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes + 2 * rows * 64 * database.itemsize
    print(rows, block, taken / 2**20, megabytes)
    assert taken <= megabytes << 20


def test_a_budget_too_small():
    with pytest.raises(InputError, match=r"memory: expected room for 64 descriptors of 4096"):
        nearest_neighbours(np.ones((2, 4096)), np.ones((99, 4096), np.float32), 1, memory_bytes=999)


def test_approximate_neighbours():
    queries, database = unit_vectors(20, 16, 0), unit_vectors(3000, 16, 1)
    indices, distances = nearest_neighbours(queries, database, 10, recall_target=0.9)
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
        (np.ones((2, 3)), np.ones((4, 3), np.float32), 0, "neighbours: expected at least 1"),
    ],
)
def test_what_cannot_be_searched(queries, database, k, message):
    with pytest.raises(InputError, match=message):
        nearest_neighbours(queries, database, k)


def spoilt(rows, places, value):
    rows = rows.copy()
    for place in places:
        rows[place, place % rows.shape[1]] = value
    return rows


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("keep", [True, False])
def test_what_is_not_finite_is_refused(value, devices, keep, monkeypatch):
    monkeypatch.setattr(cpu_search, "CACHED_BYTES", 2**15)  # several chunks
    monkeypatch.setattr(retrieval, "CPU_ROWS", 64)
    queries, database = unit_vectors(30, 16, 0), unit_vectors(500, 16, 1)
    mesh = data_mesh(jax.devices()[:devices])
    broken = spoilt(queries, [3, 29], value)
    with pytest.raises(InputError, match=r"queries: expected finite descriptors, .* row 3, 29$"):
        Index(database, mesh=mesh, keep=keep).search(broken, 5)
    for place in (0, 257, 499):
        broken = spoilt(database, [place], value)
        with pytest.raises(InputError, match=rf"database: expected finite .* row {place}$"):
            Index(broken, mesh=mesh, keep=keep).search(queries, 5)
    with pytest.raises(InputError, match=r"row 1, 2, 3, 4, 5 and 2 more$"):
        nearest_neighbours(queries, spoilt(database, range(1, 8), value), 5, mesh=mesh)


def test_half_precision_that_is_not_finite():
    database = unit_vectors(50, 8, 0).astype(np.float16)
    with pytest.raises(InputError, match=r"database: expected finite descriptors, .* row 7$"):
        nearest_neighbours(unit_vectors(2, 8, 1), spoilt(database, [7], np.inf), 3)
    with pytest.raises(InputError, match=r"queries: expected finite descriptors, .* row 1$"):
        nearest_neighbours(spoilt(np.ones((2, 8)), [1], 1e300), database, 3)
    with pytest.raises(InputError, match=r"database: .* row 8,200$"):  # of several pieces
        nearest_neighbours(
            np.ones((1, 2)), spoilt(np.ones((9000, 2), np.float32), [8200], np.nan), 1
        )


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
    indices, distances = nearest_neighbours(np.zeros((1, 2)), database, 6)
    assert indices.tolist() == [[3, 1, 2, 0, 5, 4]]
    assert np.allclose(distances[0], np.sort(steps), rtol=1e-6, atol=0)


@pytest.mark.parametrize("devices", [1, 2])
def test_descriptors_without_a_length(devices):
    """Nothing rounds there, so that all scores are as large as their bounds."""
    zeros, mesh = np.zeros((40, 4), np.float32), data_mesh(jax.devices()[:devices])
    indices, distances = nearest_neighbours(zeros[:2], zeros, 3, mesh=mesh)
    assert indices.tolist() == [[0, 1, 2]] * 2 and not distances.any()
