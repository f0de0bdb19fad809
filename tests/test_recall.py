"""Recall and what belongs to it: intervals over queries, and queries of one kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvpr_jax.evaluation.recall import (
    hits_by_rank,
    recall_at_k,
    recall_by_condition,
    recall_intervals,
    recall_of,
)


def looped(predictions, positives, k):
    """As FIELD.md has it: a query at a time."""
    found = 0
    for row, right in zip(predictions, positives, strict=True):
        if any(index in right for index in row[:k]):
            found += 1
    return 100 * found / len(predictions)


@settings(deadline=None)
@given(st.data())
def test_recall_is_what_a_plain_loop_gives(data):
    q, n, m = (data.draw(st.integers(1, most)) for most in (8, 12, 12))
    predictions = np.array(
        [data.draw(st.permutations(range(n)))[: min(m, n)] for _ in range(q)], np.int32
    )
    sets = [data.draw(st.sets(st.integers(0, n - 1), max_size=n)) for _ in range(q)]
    positives = [np.array(sorted(found), np.int64) for found in sets]
    for k in (1, 2, 5, 20):
        expected = looped(predictions.tolist(), sets, k)
        assert recall_at_k(predictions, positives, [k])[k] == pytest.approx(expected)


def test_intervals_are_those_of_a_drawn_bootstrap():
    hits = np.arange(400) < 300
    random = np.random.default_rng(0)
    drawn = 100 * hits[random.integers(0, 400, (20000, 400))].mean(1)
    low, high = recall_intervals({1: 75.0}, 400)[1]
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=0.26)
    assert low < 75 < high


@pytest.mark.parametrize("percent", [0.0, 100.0])
def test_intervals_at_the_ends(percent):
    assert recall_intervals({1: percent}, 7)[1] == (percent, percent)


def test_recall_of_each_kind_of_query():
    hits = np.array([[1, 0], [0, 0], [0, 1], [1, 1]], bool)
    found = recall_by_condition(hits, {"light": ["day", "night", "night", "day"]}, [1, 2])
    assert found == {"light": {"day": (2, {1: 100, 2: 100}), "night": (2, {1: 0, 2: 50})}}
    assert list(found["light"]) == ["day", "night"]
    assert recall_of(hits, [1, 2]) == {1: 50, 2: 75}


def test_hits_are_by_rank():
    hits = hits_by_rank(np.array([[2, 0], [1, 3]]), [np.array([0, 3]), np.array([], int)])
    assert hits.tolist() == [[False, True], [False, False]]
