"""Recall and what belongs to it: intervals over queries, and queries of one kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvpr_jax.evaluation.recall import (
    hits_by_rank,
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
        assert recall_of(hits_by_rank(predictions, positives), [k])[k] == pytest.approx(expected)


def wilson(found, count, z=1.959963984540054):
    """The two shares of which what was measured is just z standard deviations away."""
    share = found / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    return 100 * (middle - half), 100 * (middle + half)


@pytest.mark.parametrize(("found", "count"), [(300, 400), (1, 3), (0, 7), (7, 7), (4, 4), (1, 1)])
def test_intervals_are_wilsons(found, count):
    percent = 100 * found / count
    low, high = recall_intervals({5: percent}, count)[5]
    assert (low, high) == pytest.approx(wilson(found, count), abs=1e-9)
    assert 0 <= low <= percent <= high <= 100


def test_intervals_at_the_ends_have_a_width():
    assert recall_intervals({1: 100.0}, 4)[1] == pytest.approx((51.0109, 100), abs=1e-3)
    assert recall_intervals({1: 0.0}, 4)[1] == pytest.approx((0, 48.9891), abs=1e-3)


def test_intervals_of_a_share_that_float_rounds():
    """29 of 87, of which 100 * share / 100 * 87 is not just 29."""
    low, high = recall_intervals({1: 100 * float(np.mean(np.arange(87) < 29))}, 87)[1]
    assert (low, high) == pytest.approx(wilson(29, 87), abs=1e-9)


def test_another_confidence():
    wide, narrow = (recall_intervals({1: 50.0}, 20, level)[1] for level in (0.99, 0.5))
    assert wide[0] < narrow[0] < 50 < narrow[1] < wide[1]


def test_recall_of_each_kind_of_query():
    hits = np.array([[1, 0], [0, 0], [0, 1], [1, 1]], bool)
    found = recall_by_condition(hits, {"light": ["day", "night", "night", "day"]}, [1, 2])
    assert found == {
        "light": {
            "day": {"num_queries": 2, "recall": {1: 100, 2: 100}},
            "night": {"num_queries": 2, "recall": {1: 0, 2: 50}},
        }
    }
    labels = [f"{number:02d}" for number in range(40, 0, -1)]
    many = recall_by_condition(np.ones((40, 1), bool), {"hour": labels}, [1])["hour"]
    assert list(many) == sorted(labels)
    assert recall_of(hits, [1, 2]) == {1: 50, 2: 75}


def test_hits_are_by_rank():
    hits = hits_by_rank(np.array([[2, 0], [1, 3]]), [np.array([0, 3]), np.array([], int)])
    assert hits.tolist() == [[False, True], [False, False]]


def test_recall_on_a_hand_made_case():
    predictions = np.array([[3, 1, 2], [0, 1, 2], [5, 4, 0], [2, 1, 0]])
    positives = [np.array([3]), np.array([2, 7]), np.array([], int), np.array([9])]
    hits = hits_by_rank(predictions, positives)
    assert recall_of(hits, [1, 2, 3, 10]) == {1: 25, 2: 25, 3: 50, 10: 50}


def test_recall_needs_a_row_a_query():
    with pytest.raises(ValueError, match="2 rows of predictions, 1 queries"):
        hits_by_rank(np.zeros((2, 1), int), [np.array([0])])
