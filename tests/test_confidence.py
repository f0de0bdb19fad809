"""Precision and recall over thresholds, against scikit-learn and plain counting."""

import csv
import json

import numpy as np
import pytest
from folders import write_images
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve

from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.confidence import precision_recall, score_of, threshold_at


@st.composite
def matches(draw):
    """Scores with many ties, which are right, and how many queries have a positive."""
    rows = draw(st.lists(st.tuples(st.integers(-4, 12), st.booleans()), min_size=1, max_size=40))
    width = draw(st.sampled_from([1.0, 0.1, 1 / 3, 1e-7, 5e4]))
    scores = np.array([width * score for score, _ in rows])
    right = np.array([flag for _, flag in rows])
    return scores, right, draw(st.integers(int(right.sum()), len(right)))


def accepted(score, scores, right, num_with_positives):
    """What a threshold gives, counted: how many matches, their precision and recall."""
    kept = [bool(flag) for one, flag in zip(scores.tolist(), right, strict=True) if one >= score]
    return len(kept), sum(kept) / len(kept), sum(kept) / num_with_positives


@settings(deadline=None)
@given(matches())
def test_curve_and_area_are_those_of_scikit_learn(found):
    scores, right, num_with_positives = found
    assume(right.any())
    curve = precision_recall(scores, right, num_with_positives)
    precision, recall, thresholds = precision_recall_curve(right, scores)
    # From the lowest threshold, with a last point of its own; its recall ends at 1.
    share = right.sum() / num_with_positives
    np.testing.assert_array_equal(curve.scores, thresholds[::-1])
    np.testing.assert_allclose(curve.precision, precision[-2::-1], rtol=1e-14)
    np.testing.assert_allclose(curve.recall, share * recall[-2::-1], rtol=1e-14)
    expected = share * average_precision_score(right, scores)
    assert curve.average_precision == pytest.approx(expected, rel=1e-12)


@settings(deadline=None)
@given(matches(), st.sampled_from([1.0, 0.95, 0.9, 0.5, 1 / 3, 1e-3]))
def test_threshold_gives_what_it_promises_and_none_is_better(found, precision):
    scores, right, _ = found
    threshold = threshold_at(precision, *found)
    each = [accepted(score, *found) for score in set(scores.tolist())] if right.any() else []
    enough = [(r, p) for _, p, r in each if p >= precision and r > 0]
    if threshold is None:
        assert not enough
        return
    counted = accepted(threshold.score, *found)
    assert counted == (threshold.num_accepted, threshold.precision, threshold.recall)
    assert (threshold.recall, threshold.precision) == max(enough)
    in_float32 = accepted(np.float32(threshold.score), np.float32(scores), *found[1:])
    assert in_float32 == counted or len(np.unique(np.float32(scores))) < len(np.unique(scores))
    lowest = min(scores[scores >= threshold.score])
    assert lowest - 1e-4 <= threshold.score <= lowest


def test_threshold_is_a_short_number_where_that_accepts_the_same():
    right = np.array([True, True, False])
    apart = threshold_at(1.0, np.array([0.9, 0.81237777, 0.8]), right, 3)
    assert apart is not None and apart.score == 0.8123
    close = threshold_at(1.0, np.array([0.9, 0.81237777, 0.812361]), right, 3)
    assert close is not None and close.score == 0.81237
    single = np.nextafter(np.float32(0.74587315), np.float32([0.74587315, 0]))  # float32's next
    next_to_it = threshold_at(1.0, np.array([0.9, *single], np.float32), right, 3)
    assert next_to_it is not None and np.float32(next_to_it.score) == single[0]
    exact = np.nextafter(0.81237777, 1)
    closest = threshold_at(1.0, np.array([0.9, exact, 0.81237777]), right, 3)
    assert closest is not None and closest.score == exact


def test_wrong_matches_that_add_no_recall_are_not_accepted():
    """19 of 20 would do for 95 %, but the wrong one brings nothing."""
    scores, right = np.arange(20, 0, -1.0), np.arange(20) < 19
    threshold = threshold_at(0.95, scores, right, 19)
    assert threshold is not None
    assert (threshold.score, threshold.precision, threshold.recall) == (2.0, 1.0, 1.0)


def test_right_and_wrong_of_one_score_are_accepted_together():
    found = np.full(4, 0.5), np.array([True, True, True, False]), 4
    curve = precision_recall(*found)
    assert curve.precision.tolist() == curve.recall.tolist() == [0.75]
    assert curve.average_precision == 0.75**2
    assert threshold_at(0.95, *found) is None
    threshold = threshold_at(0.75, *found)
    assert threshold is not None and threshold.num_accepted == 4


def test_match_of_a_query_without_positives_costs_precision_and_no_recall():
    scores, right = np.array([0.9, 0.8, 0.7]), np.array([False, True, True])
    curve = precision_recall(scores, right, 2)
    assert curve.recall.tolist() == [0, 0.5, 1]
    assert curve.precision.tolist() == [0, 0.5, 2 / 3]


def test_all_right_all_wrong_and_a_single_query():
    scores = np.array([0.9, 0.7, 0.8])
    threshold = threshold_at(1.0, scores, np.ones(3, bool), 3)
    assert threshold is not None and (threshold.score, threshold.recall) == (0.7, 1.0)
    assert threshold_at(0.01, scores, np.zeros(3, bool), 3) is None
    assert precision_recall(scores, np.zeros(3, bool), 3).average_precision == 0
    assert precision_recall(scores, np.zeros(3, bool), 0).recall.tolist() == [0, 0, 0]
    assert precision_recall(scores[:1], np.ones(1, bool), 1).average_precision == 1
    assert precision_recall(scores[:0], np.ones(0, bool), 0).average_precision == 0


def test_results_are_in_percent_and_null_where_nothing_reaches_a_precision():
    distances = np.array([0.2, 0.4, 0.6, 0.8], np.float32)
    scores = score_of(distances)
    found = precision_recall(scores, np.array([True, False, True, True]), 4).summary()
    assert found == {
        "num_queries_with_positives": 4,
        "average_precision": pytest.approx(100 / 4 * (1 + 2 / 3 + 3 / 4)),
        # Recall is 25 % at the first match, 50 % at the third, 75 % at the last.
        "precision_at_recall": {
            **dict.fromkeys(("10", "20"), 100),
            **dict.fromkeys(("30", "40", "50"), pytest.approx(200 / 3)),
            **dict.fromkeys(("60", "70"), 75),
            **dict.fromkeys(("80", "90", "100")),
        },
        "thresholds": {
            "100": {"score": 0.98, "precision": 100.0, "recall": 25.0, "num_accepted": 1},
            "95": {"score": 0.98, "precision": 100.0, "recall": 25.0, "num_accepted": 1},
        },
    }
    missed = precision_recall(scores, np.zeros(4, bool), 4).summary()
    assert missed is not None and missed["thresholds"] == {"100": None, "95": None}
    assert precision_recall(scores, np.zeros(4, bool), 0).summary() is None


def test_score_is_the_cosine_similarity():
    random = np.random.default_rng(0)
    one, two = random.normal(size=(2, 500, 64))
    one, two = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, two + one))
    distances = np.linalg.norm(one - two, axis=1).astype(np.float32)
    np.testing.assert_allclose(score_of(distances), (one * two).sum(1), atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(0, 2, width=32), min_size=1, max_size=50))
def test_score_is_the_same_from_the_distance_that_is_written(distances):
    exact = np.array(distances, np.float32)
    written = [float(f"{distance:.6f}") for distance in exact]
    read = np.array(written, np.float32)
    assert score_of(exact).tolist() == score_of(read).tolist()
    assert score_of(exact).tolist() == [1 - distance * distance / 2 for distance in written]


def test_thresholds_of_results_hold_for_the_predictions_that_are_written(evaluate, tmp_path):
    """Twelve places; a fainter photo of each, of which every fifth was taken elsewhere."""
    names = [f"@{500000 + 100 * place}.00@4100000.00@{place:02}@.jpg" for place in range(12)]
    photos = [Image.open(path) for path in sorted(write_images(tmp_path / "d", names).iterdir())]
    (tmp_path / "q").mkdir()
    for place, photo in enumerate(photos):
        name = names[place].replace("@41", "@42") if place % 5 == 4 else names[place]
        photo.point(lambda level, place=place: level * (20 - place) // 20).save(
            tmp_path / "q" / name
        )
    evaluate(tmp_path / "d", tmp_path / "q")
    found = json.loads((tmp_path / "out" / "results.json").read_text())["confidence"]
    assert found["num_queries_with_positives"] == 10
    with (tmp_path / "out" / "predictions.csv").open() as file:
        first = [row for row in csv.DictReader(file) if row["rank"] == "1"]
    scores = [1 - float(row["descriptor_distance"]) ** 2 / 2 for row in first]
    for percent, threshold in found["thresholds"].items():
        flags = [row["correct"] for row, score in zip(first, scores, strict=True)
                 if score >= threshold["score"]]  # fmt: skip
        assert 1 < len(flags) == threshold["num_accepted"]
        assert 100 * flags.count("1") / len(flags) == threshold["precision"] >= float(percent)
        assert 100 * (flags.count("1") / 10) == threshold["recall"]


@pytest.mark.parametrize(
    ("scores", "right", "count", "expected"),
    [
        ([0.5, np.nan], [True, True], 2, "scores: expected finite numbers, found nan"),
        ([0.5], [True, True], 2, "expected one value for each score, found shapes"),
        ([0.9, 0.5], ["1", "0"], 2, "right: expected True or False, found '1'"),  # of csv.reader
        ([0.9, 0.5], [1.0, np.nan], 2, "right: expected True or False, found nan"),
        ([0.9, 0.5], [3.5, 80.0], 2, r"right: expected True or False, found 3\.5"),  # metres
        ([0.5], [True], 0, "num_with_positives: expected from 1, the right matches, to 1"),
        ([0.5], [True], 2, "found 2"),
    ],
)
def test_wrong_values_are_refused(scores, right, count, expected):
    with pytest.raises(InputError, match=expected):
        precision_recall(np.array(scores), np.array(right), count)


@pytest.mark.parametrize("precision", [0, 95, float("nan")])
def test_percent_is_no_share(precision):
    with pytest.raises(InputError, match="precision: expected a share above 0 such as 0.95, found"):
        threshold_at(precision, np.ones(1), np.ones(1, bool), 1)
