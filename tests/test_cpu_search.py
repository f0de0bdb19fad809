"""The search on a CPU: exact, however coarse its products are."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mixvpr_jax import InputError
from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.evaluation import cpu_search
from mixvpr_jax.evaluation.cpu_search import Block, CpuIndex
from mixvpr_jax.evaluation.retrieval import nearest_neighbours

FACTORS = pytest.mark.parametrize("factors", [jnp.float32, jnp.bfloat16])


def brute_force(queries, database, k):
    differences = queries[:, None].astype(np.float64) - database[None].astype(np.float64)
    squared = (differences**2).sum(2)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return order, np.sqrt(np.take_along_axis(squared, order, 1))


def unit_vectors(count, size, seed):
    rows = np.random.default_rng(seed).standard_normal((count, size), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def check(queries, database, k, factors, memory_bytes=2**30, **options):
    index = CpuIndex(database, memory_bytes, dtype=factors, **options)
    indices, distances = index.search(queries, k)
    expected, expected_distances = brute_force(queries, database, k)
    assert np.array_equal(indices, expected)
    assert np.allclose(distances, expected_distances, rtol=4e-6, atol=0)
    assert (indices.dtype, distances.dtype) == (np.int32, np.float32)


@FACTORS
@pytest.mark.parametrize("size", [1, 5, 64, 100])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 1000])
def test_sizes(count, size, factors):
    rng = np.random.default_rng(size)
    queries = rng.standard_normal((7, size), np.float32)
    check(queries, rng.standard_normal((count, size), np.float32), min(count, 10), factors)


@FACTORS
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("keep", [True, False])
def test_many_chunks_and_blocks_of_queries(monkeypatch, keep, dtype, factors):
    monkeypatch.setattr(cpu_search, "QUERIES", 32)
    monkeypatch.setattr(cpu_search, "CACHED_BYTES", 2**14)
    queries, database = unit_vectors(100, 24, 0), unit_vectors(3001, 24, 1).astype(dtype)
    assert CpuIndex(database, 2**30, dtype=factors).rows < 120
    check(queries, database, 20, factors, keep=keep)


@FACTORS
@pytest.mark.parametrize("spread", [0, 1e-7, 1e-4, 1e-2])
@pytest.mark.parametrize("copies", [40, 400])
def test_neighbours_that_rounding_cannot_tell_apart(copies, spread, factors):
    rng = np.random.default_rng(copies)
    database = unit_vectors(1000, 64, 0)
    chosen = rng.choice(1000, copies, replace=False)
    database[chosen] = database[7] + spread * rng.standard_normal((copies, 64))
    beside = database[7] + np.float32(0.3) * unit_vectors(5, 64, 2)
    queries = np.concatenate([database[7:8] + np.float32(1e-3), beside, unit_vectors(3, 64, 1)])
    check(queries, database, 20, factors)


def test_rounding_that_goes_the_same_way_in_every_value():
    """A bound that took roundings for random would miss neighbours here."""
    steps = np.float32(1) + np.arange(600, dtype=np.float32) / 4096  # bfloat16 tells 19 apart
    database = np.repeat(np.random.default_rng(0).permutation(steps)[:, None], 256, axis=1)
    queries = np.full((3, 256), 1.0625, np.float32)
    queries[1], queries[2] = 1.003, 1.1
    check(queries, database, 5, jnp.bfloat16)


@FACTORS
def test_lengths_and_scales_of_all_kinds(factors):
    rng = np.random.default_rng(3)
    database = unit_vectors(2000, 48, 1) * rng.lognormal(0, 1, (2000, 1)).astype(np.float32)
    queries = unit_vectors(20, 48, 2) * np.float32(2)
    check(queries, database, 10, factors)
    check(1000 * queries, 1000 * database, 10, factors)
    check(queries / 1000, database / 1000, 10, factors)
    check(queries + 5, database + 5, 10, factors)


@FACTORS
@pytest.mark.parametrize("scale", [1e-19, 1e-21])
def test_squares_that_float32_cannot_hold(scale, factors):
    queries, database = unit_vectors(9, 24, 0), unit_vectors(500, 24, 1)
    check(np.float32(scale) * queries, np.float32(scale) * database, 10, factors)


@FACTORS
def test_neighbours_that_get_better_and_better(monkeypatch, factors):
    """Each chunk pushes out what was found before."""
    monkeypatch.setattr(cpu_search, "CACHED_BYTES", 2**14)
    near = unit_vectors(1, 16, 0)
    away = unit_vectors(1500, 16, 1) * np.linspace(2, 0.01, 1500, dtype=np.float32)[:, None]
    check(near, near + away, 20, factors)


@FACTORS
def test_more_candidates_than_there_is_memory_for(monkeypatch, factors):
    """Where all are equally near, queries are searched in ever smaller groups."""
    searched = []
    original = Block.__init__

    def noted(self, queries, *others):
        searched.append(len(queries))
        original(self, queries, *others)

    monkeypatch.setattr(Block, "__init__", noted)
    database = np.ones((4000, 8), np.float32)
    indices, distances = CpuIndex(database, 2**22, dtype=factors).search(np.zeros((64, 8)), 3)
    assert np.array_equal(indices, np.tile([0, 1, 2], (64, 1)))
    assert np.allclose(distances, 8**0.5)
    assert searched[0] == 64
    assert min(searched) < 32


def test_chunks_are_kept_where_there_is_memory():
    database = unit_vectors(4096, 64, 0)
    kept, streamed = CpuIndex(database, 2**24), CpuIndex(database, 2**20)
    assert kept._kept is not None
    assert streamed._kept is None
    queries = unit_vectors(10, 64, 1)
    for one, other in zip(kept.search(queries, 9), streamed.search(queries, 9), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("megabytes", [4, 16, 64])
@FACTORS
def test_the_budget_is_kept(megabytes, factors, monkeypatch):
    """By what XLA says that its programs take."""
    monkeypatch.setattr(cpu_search, "CACHED_BYTES", 10**9)
    database = np.zeros((200_000, 64), np.float32)
    index = CpuIndex(database, megabytes << 20, keep=False, dtype=factors)
    rows, count = index.rows, index.num_queries
    assert rows >= cpu_search.BLOCK
    chunk = jax.ShapeDtypeStruct((rows, 64), np.float32)
    limits = np.int32(0), np.int32(rows)
    scores = cpu_search.scores_of.lower(
        jax.ShapeDtypeStruct((count, 64), factors),
        jax.ShapeDtypeStruct((rows, 64), factors),
        jax.ShapeDtypeStruct((rows,), np.float32),
    )
    programs = [
        cpu_search.prepared.lower(chunk, *limits, jnp.dtype(factors)).compile(),
        scores.compile(),
    ]
    taken = chunk.size * 4 + sum(
        found.temp_size_in_bytes + found.output_size_in_bytes
        for found in (program.memory_analysis() for program in programs)
    )
    print(rows, count, taken / 2**20, megabytes)
    assert taken <= (megabytes << 20) // 2


def test_a_budget_too_small():
    with pytest.raises(InputError, match=r"memory: expected room for 16 descriptors of 4096"):
        CpuIndex(np.ones((99, 4096), np.float32), 999)


@FACTORS
def test_one_device_and_several_find_the_same(factors, monkeypatch):
    monkeypatch.setattr(cpu_search, "factor_dtype", lambda: factors)
    queries, database = unit_vectors(50, 128, 0), unit_vectors(5000, 128, 1)
    found = [
        nearest_neighbours(queries, database, 20, mesh=data_mesh(jax.devices()[:devices]))
        for devices in (1, 4)
    ]
    for one, four in zip(*found, strict=True):
        assert np.array_equal(one, four)


@FACTORS
@pytest.mark.parametrize(("count", "size"), [(5000, 256), (50_000, 64)])
def test_what_faiss_finds(count, size, factors):
    faiss = pytest.importorskip("faiss")
    queries, database = unit_vectors(100, size, 0), unit_vectors(count, size, 1)
    index = faiss.IndexFlatL2(size)
    index.add(database)
    squared, theirs = index.search(queries, 20)
    indices, distances = CpuIndex(database, 2**30, dtype=factors).search(queries, 20)
    assert np.array_equal(indices, theirs)
    assert np.allclose(distances**2, squared, atol=1e-5)
