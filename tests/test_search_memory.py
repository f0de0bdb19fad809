"""Memory that a search takes, what it reads and copies, and where an index may go."""

import copy
import pickle
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from searches import brute_force, one_device, unit_vectors

from mixvpr_jax import InputError
from mixvpr_jax.distributed import AXIS, data_mesh
from mixvpr_jax.evaluation import search
from mixvpr_jax.evaluation.search import Index, better


@pytest.mark.parametrize("through", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_an_index_for_another_process(through):
    queries, database = unit_vectors(3, 16, 0), unit_vectors(100, 16, 1)
    index = Index(database, mesh=one_device(), memory_bytes=2**20, recall_target=0.9)
    expected = index.search(queries, 4)
    again = through(index)
    assert np.array_equal(again.search(queries, 4), expected)
    assert (again.memory_bytes, again.recall_target) == (2**20, 0.9)


def test_a_pickled_index_takes_the_memory_of_where_it_is_loaded():
    index = Index(unit_vectors(4, 16, 0))
    index.memory_bytes = 2**40  # of a larger device
    assert pickle.loads(pickle.dumps(index)).memory_bytes == 2**30


@pytest.mark.parametrize("devices", [1, 8])
def test_no_transfer_is_implicit(devices, small_chunks):
    queries, database = unit_vectors(3, 16, 0), unit_vectors(1000, 16, 1)
    with jax.transfer_guard("disallow"):
        found, _ = Index(database, mesh=data_mesh(jax.devices()[:devices])).search(queries, 20)
    assert np.array_equal(found, brute_force(queries, database, 20)[0])


@pytest.mark.parametrize("devices", [1, 2])
def test_a_database_on_disk_is_read_chunk_by_chunk(tmp_path, small_chunks, devices, monkeypatch):
    database = unit_vectors(1000, 8, 1)
    np.save(tmp_path / "database.npy", database)
    mapped = np.load(tmp_path / "database.npy", mmap_mode="r")
    monkeypatch.setattr(search, "CHECKED_ROWS", 100)
    read = []

    class Watched(np.memmap):
        def __getitem__(self, key):
            found = super().__getitem__(key)
            read.append(len(found))
            return found

    mesh = data_mesh(jax.devices()[:devices])
    queries = unit_vectors(5, 8, 0)
    indices, _ = Index(mapped.view(Watched), mesh=mesh, memory_bytes=2**15).search(queries, 3)
    assert np.array_equal(indices, brute_force(queries, database, 3)[0])
    assert max(read) <= 128


@pytest.mark.parametrize("megabytes", [1, 4, 16, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("count", [32, 256])
def test_the_budget_is_kept(megabytes, dtype, count, monkeypatch):
    """By what XLA says that the program takes, two chunks in memory, and those that stay."""
    monkeypatch.setattr(search, "CPU_CHUNK_BYTES", 10**9)
    mesh = one_device()
    database = np.zeros((200_000, 64), dtype)
    rows, batch = Index(database, mesh=mesh, memory_bytes=megabytes << 20)._sizes(500, count)
    assert rows == len(database) or rows > 64  # no more is cut than must be
    divided = NamedSharding(mesh, P(AXIS))
    known = [
        jax.ShapeDtypeStruct((1, batch, count), dtype, sharding=divided)
        for dtype in (np.float32, np.int32)
    ]
    queries = jax.ShapeDtypeStruct((batch, 64), np.float32)
    chunk = jax.ShapeDtypeStruct((rows, 64), dtype, sharding=divided)
    norms = jax.ShapeDtypeStruct((rows,), np.float32, sharding=divided)
    compiled = better.lower(*known, queries, chunk, norms, np.int32(0), mesh, None).compile()
    chunks = 2 * rows * 64 * database.itemsize
    analysis = compiled.memory_analysis()
    assert analysis is not None
    taken = analysis.temp_size_in_bytes + chunks
    kept = min(database.nbytes, megabytes << 18)
    assert taken + kept <= megabytes << 20, (rows, batch, taken / 2**20)


def test_a_budget_too_small():
    with pytest.raises(InputError, match=r"memory: expected room for 32 descriptors of 4096"):
        Index(np.ones((99, 4096), np.float32), memory_bytes=999).search(np.ones((2, 4096)), 1)


@pytest.mark.parametrize("count", [4000, 40_000])
def test_more_candidates_than_there_is_memory_for(count):
    """Where all are equally near, the whole database is measured, in little memory."""
    database = np.ones((count, 8), np.float32)
    index = Index(database, memory_bytes=2**18)
    indices, distances = index.search(np.zeros((64, 8)), 3)
    assert np.array_equal(indices, np.tile([0, 1, 2], (64, 1)))
    assert np.allclose(distances, 8**0.5)


def test_a_full_ranking_takes_little_memory(monkeypatch):
    """Of each descriptor its distance, and of few at a time the differences."""
    monkeypatch.setattr(search, "VALUES_AT_ONCE", 2**14)
    monkeypatch.setattr(search, "num_processors", lambda: 1)
    database, queries = unit_vectors(4000, 256, 0), unit_vectors(2, 256, 1)
    index = Index(database)
    tracemalloc.start()
    indices, _ = index.search(queries, len(database))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < database.nbytes / 4
    assert np.array_equal(np.sort(indices, axis=1), np.tile(np.arange(4000), (2, 1)))


def test_chunks_stay_where_there_is_memory():
    database, queries = unit_vectors(4096, 64, 0), unit_vectors(10, 64, 1)
    kept, streamed = (
        Index(database, mesh=one_device(), memory_bytes=size) for size in (2**24, 2**20)
    )
    for _ in range(2):
        found = kept.search(queries, 9), streamed.search(queries, 9)
        assert kept._kept and not streamed._kept
        for one, other in zip(*found, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("searched", [False, True])
def test_an_array_that_is_filled_again_changes_no_index(dtype, searched):
    """As a buffer of descriptors may be, for the next folder."""
    buffer = unit_vectors(300, 8, 0).astype(dtype)
    database, queries = buffer.copy(), unit_vectors(5, 8, 1)
    index = Index(buffer[:200])
    if searched:  # the devices hold a copy then, the host does not
        index.search(queries, 3)
    buffer[:] = 1
    for found, right in zip(
        index.search(queries, 3), Index(database[:200]).search(queries, 3), strict=True
    ):
        assert np.array_equal(found, right)


def test_what_nobody_can_change_is_not_copied(tmp_path):
    database = unit_vectors(30, 8, 0)
    np.save(tmp_path / "d.npy", database)
    for mode in ("r", "r+"):
        mapped = np.load(tmp_path / "d.npy", mmap_mode=mode)
        assert Index(mapped).database is mapped
    database.flags.writeable = False
    assert Index(database).database is database
