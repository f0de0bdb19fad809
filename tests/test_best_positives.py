"""The nearest true positive and its rank, as float64 and a plain loop have them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvpr_jax.evaluation import recall as module
from mixvpr_jax.evaluation.recall import best_positives


def looped(query, database, positives):
    squared = ((database.astype(np.float64) - query.astype(np.float64)) ** 2).sum(1)
    order = np.lexsort((np.arange(len(database)), squared))
    for rank, index in enumerate(order, start=1):
        if index in positives:
            return index, squared[index] ** 0.5, rank
    return -1, np.inf, 0


def neighbours(queries, database, k):
    squared = ((database[None].astype(np.float64) - queries[:, None].astype(np.float64)) ** 2).sum(
        2
    )
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return order, np.sqrt(np.take_along_axis(squared, order, 1))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans())
def test_ranks_are_those_of_a_plain_loop(seed, k, copies):
    random = np.random.default_rng(seed)
    queries, database = (random.standard_normal((n, 6)).astype(np.float32) for n in (5, 40))
    if copies:  # many at exactly the same distance
        database[10:30] = database[5]
        queries[:3] = database[5] + np.float32(1e-4)
    sets = [random.choice(40, random.integers(0, 4), replace=False) for _ in queries]
    found = best_positives(queries, database, sets, *neighbours(queries, database, min(k, 40)))
    for row, (query, positives) in enumerate(zip(queries, sets, strict=True)):
        index, distance, rank = looped(query, database, set(positives.tolist()))
        assert (found.indices[row], found.ranks[row]) == (index, rank)
        assert found.distances[row] == pytest.approx(distance, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_chunks_change_nothing(monkeypatch, dtype):
    random = np.random.default_rng(0)
    queries, database = (random.standard_normal((n, 8)).astype(dtype) for n in (9, 50))
    sets = [np.array([row, row + 20]) for row in range(9)]
    nothing = np.full((9, 1), 49), np.ones((9, 1), np.float32)
    whole = best_positives(queries, database, sets, *nothing)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 4)
    parts = best_positives(queries, database, sets, *nothing)
    for field in ("indices", "distances", "ranks"):
        assert np.array_equal(getattr(whole, field), getattr(parts, field))
    for row in range(9):
        assert whole.ranks[row] == looped(queries[row], database, set(sets[row].tolist()))[2]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_what_is_left_out_does_not_count_for_ranks(seed, copies):
    random = np.random.default_rng(seed)
    queries, database = (random.standard_normal((n, 6)).astype(np.float32) for n in (5, 40))
    if copies:
        database[10:30] = database[5]
        queries[:3] = database[5] + np.float32(1e-4)
    sets = [random.choice(40, 3, replace=False) for _ in queries]
    left_out = [np.setdiff1d(random.choice(40, 6), positives) for positives in sets]
    left_out[2] = np.array([], int)
    nothing = np.full((5, 1), -1), np.ones((5, 1), np.float32)
    found = best_positives(queries, database, sets, *nothing, left_out)
    for row, (query, positives) in enumerate(zip(queries, sets, strict=True)):
        kept = np.setdiff1d(np.arange(40), left_out[row])
        place = np.flatnonzero(np.isin(kept, positives))
        index, _, rank = looped(query, database[kept], set(place.tolist()))
        assert (found.indices[row], found.ranks[row]) == (kept[index], rank)
