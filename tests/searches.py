"""What tests of the search share: descriptors, and the neighbours that a plain loop finds."""

import jax
import numpy as np
import pytest

from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.evaluation import search


def brute_force(queries, database, k):
    queries, database = (rows.astype(np.float64) for rows in (queries, database))
    squared = np.stack([((database - query) ** 2).sum(1) for query in queries])
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return order, np.sqrt(np.take_along_axis(squared, order, 1))


def unit_vectors(count, size, seed):
    rows = np.random.default_rng(seed).standard_normal((count, size), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def one_device():
    return data_mesh(jax.devices()[:1])


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of one block, and few queries at a time."""
    monkeypatch.setattr(search, "CPU_CHUNK_BYTES", 1)
    monkeypatch.setattr(search, "QUERIES", 8)
