"""The report holds what it was given, keeps to itself, and appears whole or not at all."""

import base64
import errno
import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_values import photo_at, report_data, written

from mixvpr_jax.errors import InputError
from mixvpr_jax.report.columns import readable_name
from mixvpr_jax.report.page import PAGE, write_page
from mixvpr_jax.report.reader import Run, figures_of

HOSTILE_NAMES = (
    "<script>alert(1)<!--&amp;\"'.jpg",
    "]]>&lt;Zürich 日本\u2028.jpg",
    os.fsdecode(b"not utf-8 \xff {{DATA}}.jpg"),
)


def test_the_page_holds_what_was_given(tmp_path: Path) -> None:
    data = report_data(tmp_path)
    report = written(tmp_path / "report.html", data)
    value, queries = report.value, report.value["queries"]

    assert value["title"] == "nano on city"
    assert value["facts"] == [["model", "nano"], ["dataset", "city"], ["protocol", "25 m"]]
    assert value["recall"] == [[1, 33.3], [5, 66.7], [10, 66.7], [20, 66.7]]
    assert (value["k"], value["m"]) == (3, 3)
    assert [report.path_of_query(query) for query in range(3)] == [str(p) for p in data.query_paths]
    assert [report.path_of_database(index) for index in range(4)] == [
        str(p) for p in data.database_paths
    ]
    assert queries["near"] == np.asarray(data.predictions).ravel().tolist()
    assert queries["distance"] == pytest.approx(data.distances.ravel().tolist(), abs=1e-4)
    assert queries["positives"] == [1, 2, 0]
    assert queries["first"] == [1, 2, 0]
    assert queries["right"] == "100010000"
    assert queries["metres"] is value["map"] is value["best"] is value["other"] is None


def test_figures_of_the_evaluation_reach_the_page(tmp_path: Path) -> None:
    published = [{"method": "MixVPR", "recall": {"1": 91.5}, "source": "table 1"}]
    results = {
        "recall_interval_95": {"1": [40, 60]},
        "protocol": {"published": published},
        "is_subset": True,
        "recall_by_condition": {
            "light": {"night": {"num_queries": 2, "recall": {"1": 50.0, "5": 75.0}}}
        },
    }
    timing = {"query_ms": {"model": {"median_ms": 20.5, "p95_ms": 30.25}}, "device": "TPU v4"}
    figures, labels = figures_of(results, timing), {"light": ["night", "day", "night"]}
    value = written(
        tmp_path / "report.html", report_data(tmp_path, figures=figures, labels=labels)
    ).value
    assert value["intervals"] == [[1, 40, 60]]
    assert value["curve"] == [33.333, 66.667, 66.667]
    assert value["published"] == [["MixVPR", [[1, 91.5]], "table 1"]]
    assert value["is_subset"] is True
    assert value["conditions"] == [["light", [["night", 2, [[1, 50], [5, 75]]]]]]
    assert value["labels"] == [{"name": "light", "values": ["night", "day"], "of": [0, 1, 0]}]
    assert value["latency"] == [["model", 20.5, 30.25]]
    assert value["device"] == "TPU v4"


def test_coordinates_become_metres_and_a_map(tmp_path: Path) -> None:
    database = np.array([[500003.0, 4000004.0], [500000, 4000000], [500100, 4000000], [np.nan, 0]])
    queries = np.array([[500000.0, 4000000.0], [500000, 4000000], [500000.26, 4000000]])
    report = written(
        tmp_path / "report.html", report_data(tmp_path, database_utm=database, query_utm=queries)
    )
    assert report.value["queries"]["metres"] == [100, 5, 0, 100, None, 5, 0.3, 99.7, None]
    assert report.value["map"] == {
        "database": [[3, 0, 100, None], [4, 0, 0, -4000000]],
        "queries": [[0, 0, 0.3], [0, 0, 0]],
    }


def test_missed_positives_and_the_other_run_have_pictures(tmp_path: Path) -> None:
    best = np.array([2, 1, -1]), np.array([0.25, 2.5, np.nan]), np.array([1, 30, 0])
    predictions = np.array([[2], [2], [2]])
    other = Run(
        title="another",
        recall=[(1, 66.6)],
        predictions=np.array([[2, 0], [3, 1], [3, 1]]),
        distances=np.full((3, 2), 0.75),
        right=np.array([[True, False], [False, True], [False, False]]),
    )
    data = report_data(
        tmp_path, predictions=predictions, distances=np.ones((3, 1)), best_positive=best
    )
    report = written(tmp_path / "report.html", data)
    assert report.value["best"] == {
        "index": [2, 1, -1], "distance": [0.25, 2.5, None], "rank": [1, 30, 0], "metres": None,
    }  # fmt: skip
    assert set(report.value["database"]["shown"]) == {1, 2}

    compared = written(tmp_path / "report.html", replace(data, other=other), neighbours=1)
    confidence = compared.value["other"].pop("confidence")
    assert confidence["average_precision"] == pytest.approx(100 / 6)
    assert confidence["curve"] == [[0.7188, 33.3333, 50.0]]
    assert compared.value["other"] == {
        "title": "another", "recall": [[1, 66.6]], "curve": [33.333, 66.667], "m": 1,
        "near": [2, 3, 3], "distance": [0.75] * 3, "metres": None, "right": "100",
    }  # fmt: skip
    assert set(compared.value["database"]["shown"]) == {1, 2, 3}


def test_confidence_has_a_curve_and_says_what_is_accepted(tmp_path: Path) -> None:
    distances = np.array([[0.4, 0.5], [0.2, 0.3], [0.6, 0.7], [0.8, 0.9]], np.float32)
    predictions = np.array([[2, 0], [2, 0], [2, 0], [2, 0]])
    positives = [np.array(few, np.int64) for few in ([2], [2], [3], [])]
    photos = [photo_at(tmp_path / f"{query}.jpg") for query in range(4)]
    data = report_data(
        tmp_path, query_paths=photos, predictions=predictions, distances=distances,
        positives=positives,
    )  # fmt: skip
    value = written(tmp_path / "report.html", data).value
    threshold = {"score": 0.9199, "precision": 100, "recall": 100 * (2 / 3), "num_accepted": 2}
    assert value["confidence"] == {
        "num_queries_with_positives": 3,
        "average_precision": pytest.approx(200 / 3),
        "precision_at_recall": {str(at): 100 if at < 67 else None for at in range(10, 101, 10)},
        "thresholds": {"100": threshold, "95": threshold},
        "curve": [
            [0.98, 100, 33.3333], [0.92, 100, 66.6667], [0.82, 66.6667, 66.6667],
            [0.68, 50, 66.6667],
        ],
        "accepted": [
            {"name": f"at {percent} %", "values": ["accepted", "rejected"], "of": [0, 0, 1, 1]}
            for percent in (100, 95)
        ],
    }  # fmt: skip
    for changes in ({"positives": None, "right": None}, {"distances": np.full((4, 2), np.nan)}):
        value = written(tmp_path / "report.html", replace(data, **changes)).value
        assert value["confidence"] is None


def test_saliency_is_a_byte_a_cell(tmp_path: Path) -> None:
    maps = np.array([[0, 128, 255], [255, 0, 0]], np.uint8), np.zeros((2, 3), np.uint8)
    value = written(tmp_path / "report.html", report_data(tmp_path, saliency={1: maps})).value
    height, width, *cells = value["saliency"]["1"]
    assert (height, width) == (2, 3)
    assert [list(base64.b64decode(one)) for one in cells] == [[0, 128, 255, 255, 0, 0], [0] * 6]


def test_only_the_first_neighbours_are_shown(tmp_path: Path) -> None:
    value = written(tmp_path / "report.html", report_data(tmp_path), neighbours=2).value
    assert (value["k"], value["m"]) == (3, 2)
    assert value["queries"]["near"] == [2, 0, 2, 3, 1, 2]
    assert value["queries"]["right"] == "100100"
    # Whether one is right is known of all of them.
    assert value["queries"]["first"] == [1, 2, 0]


def test_without_ground_truth_nothing_is_right_or_wrong(tmp_path: Path) -> None:
    value = written(
        tmp_path / "report.html", report_data(tmp_path, recall=None, positives=None)
    ).value
    assert value["recall"] is None
    assert [value["queries"][name] for name in ("positives", "first", "right")] == [None] * 3


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><!-- & \"' {{DATA}}"
    queries = [photo_at(tmp_path / "q</script>" / name) for name in HOSTILE_NAMES]
    plain = written(tmp_path / "plain.html", report_data(tmp_path))
    report = written(
        tmp_path / "report.html",
        report_data(
            tmp_path,
            query_paths=queries,
            title=hostile,
            facts={hostile: hostile},
            figures=figures_of({}, {}) | {"published": [[hostile, [[1, 1.0]], hostile]]},
            labels={hostile: [hostile] * 3},
            other=Run(title=hostile, predictions=np.zeros((3, 1), int), distances=np.zeros((3, 1))),
        ),
    )

    assert report.value["title"] == hostile
    assert report.value["facts"] == [[hostile, hostile]]
    assert [report.path_of_query(query) for query in range(3)] == [str(path) for path in queries]
    # The same tags as for harmless names: nothing of the data became markup.
    assert report.page.tags == plain.page.tags


def test_data_never_becomes_markup_in_the_browser() -> None:
    scripts = "".join(path.read_text(encoding="utf-8") for path in PAGE.glob("*.js"))
    forbidden = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\("
    assert not re.search(forbidden, scripts)


def test_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    report = written(tmp_path / "report.html", report_data(tmp_path))
    texts, tags = report.page.texts, report.page.tags
    # The one address is the name of SVG's elements.
    used = texts["script"].replace("http://www.w3.org/2000/svg", "") + texts["style"]
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", used)
    asked = [tag[name] for _, tag in tags for name in ("src", "href") if name in tag]
    assert asked == ["data:,"]


def test_the_policy_lets_the_own_script_and_style_run_alone(tmp_path: Path) -> None:
    report = written(tmp_path / "report.html", report_data(tmp_path))
    policy = next(tag["content"] for _, tag in report.page.tags if "http-equiv" in tag)
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules.pop("img-src") == "data:"
    for name in ("script", "style"):
        digest = hashlib.sha256(report.page.texts[name].encode()).digest()
        assert rules.pop(f"{name}-src") == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert rules == {}


def test_a_distance_that_is_no_number_keeps_the_page_alive(tmp_path: Path) -> None:
    distances = np.full((3, 3), 0.5, dtype=np.float32)
    distances[1, 2] = np.nan
    value = written(tmp_path / "report.html", report_data(tmp_path, distances=distances)).value
    assert value["queries"]["distance"] == [0.5] * 5 + [None] + [0.5] * 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("IMG_0001.jpg", "IMG_0001.jpg"),
        ("me@home.jpg", "me@home.jpg"),
        ("@a@b@c@.jpg", "@a@b@c@.jpg"),
        ("@0584123.45@4477123.12@.jpg", "584123 E 4477123 N"),
        ("@0584123.4@4477123.1@17@T@40.4@-79.9@Qx_81@03@090@@@@201908@dusk@.jpg",
         "Qx_81 · 03 · 201908 · dusk"),
        ("@0584123.4@4477123.1@17@T@40.4@-79.9@@@@@@@@@.jpg", "584123 E 4477123 N"),
    ],
)  # fmt: skip
def test_names_with_coordinates_become_readable(name: str, expected: str) -> None:
    assert readable_name(Path("folder") / name) == expected


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    data, output = report_data(tmp_path), tmp_path / "output"
    output.mkdir()
    monkeypatch.setattr(Path, failing, fail)
    with pytest.raises((InputError, KeyboardInterrupt)):
        write_page(output / "report.html", data)
    assert list(output.iterdir()) == []


def test_a_failed_write_keeps_the_report_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output = report_data(tmp_path), tmp_path / "output"
    output.mkdir()
    write_page(output / "report.html", data)
    before = (output / "report.html").read_bytes()

    def fail(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:1000])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match="expected room on the disk, found: full"):
        write_page(output / "report.html", report_data(tmp_path, title="another"))
    assert [path.name for path in output.iterdir()] == ["report.html"]
    assert (output / "report.html").read_bytes() == before
