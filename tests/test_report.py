"""The report holds what it was given, keeps to itself, and appears whole or not at all."""

import base64
import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.recall import hits_by_rank
from mixvpr_jax.report.columns import readable_name
from mixvpr_jax.report.page import PAGE, write_page
from mixvpr_jax.report.reader import ReportData, Run, figures_of
from mixvpr_jax.report.thumbnails import Thumbnail, make_thumbnail

HOSTILE_NAMES = (
    "<script>alert(1)<!--&amp;\"'.jpg",
    "]]>&lt;Zürich 日本\u2028.jpg",
    os.fsdecode(b"not utf-8 \xff {{DATA}}.jpg"),
)


def _photo(path: Path, shade: int = 90, size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 120, 40)).save(path, "JPEG", **options)
    return path


def _data(folder: Path, **changes: Any) -> ReportData:
    """Three queries on four database photos; right at 1, right at 2, without a positive."""
    parts: dict[str, Any] = {
        "title": "nano on city",
        "facts": {"model": "nano", "dataset": "city", "protocol": "25 m"},
        "recall": [(1, 33.3), (5, 66.7), (10, 66.7), (20, 66.7)],
        "database_paths": [_photo(folder / f"database/{i}.jpg", 40 * i) for i in range(4)],
        "query_paths": [_photo(folder / f"queries/{i}.jpg", 50 * i) for i in range(3)],
        "predictions": np.array([[2, 0, 1], [2, 3, 0], [1, 2, 3]]),
        "distances": np.array(
            [[0.25, 0.5, 1.0], [0.125, 0.75, 1.5], [0.1, 0.2, 0.3]], dtype=np.float32
        ),
        "positives": [np.array([2]), np.array([3, 1]), np.array([], dtype=np.int64)],
    }
    parts |= changes
    if parts["positives"] is not None:
        parts["right"] = hits_by_rank(parts["predictions"], parts["positives"])
    return ReportData(**parts)


class _Page(HTMLParser):
    """Tags of a page with their attributes, and what stands in its scripts and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open and self.tags[-1][0] in ("script", "style"):
            self.texts[self._open] = self.texts.get(self._open, "") + data


class _Report:
    """A page's value, and what it says about queries, matches and pictures."""

    def __init__(self, path: Path) -> None:
        self.page = _Page(path.read_text(encoding="utf-8"))
        self.value = json.loads(self.page.texts["report-data"])

    def paths(self) -> list[str]:
        pictures = self.value["pictures"]
        folders = [pictures["folders"][folder] for folder in pictures["folder"]]
        return [f"{folder}/{file}" for folder, file in zip(folders, pictures["file"], strict=True)]

    def path_of_query(self, query: int) -> str:
        return self.paths()[self.value["queries"]["picture"][query]]

    def path_of_database(self, index: int) -> str:
        shown = self.value["database"]
        return self.paths()[shown["picture"][shown["shown"].index(index)]]

    def pictures(self) -> list[Image.Image]:
        texts = self.value["pictures"]["base64"]
        return [Image.open(io.BytesIO(base64.b64decode(text))) for text in texts]


def _written(path: Path, data: ReportData, **options: Any) -> _Report:
    write_page(path, data, **options)
    return _Report(path)


def test_the_page_holds_what_was_given(tmp_path: Path) -> None:
    data = _data(tmp_path)
    report = _written(tmp_path / "report.html", data)
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
    value = _written(
        tmp_path / "report.html", _data(tmp_path, figures=figures, labels=labels)
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
    report = _written(
        tmp_path / "report.html", _data(tmp_path, database_utm=database, query_utm=queries)
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
    data = _data(tmp_path, predictions=predictions, distances=np.ones((3, 1)), best_positive=best)
    report = _written(tmp_path / "report.html", data)
    assert report.value["best"] == {
        "index": [2, 1, -1], "distance": [0.25, 2.5, None], "rank": [1, 30, 0], "metres": None,
    }  # fmt: skip
    assert set(report.value["database"]["shown"]) == {1, 2}

    compared = _written(tmp_path / "report.html", replace(data, other=other), neighbours=1)
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
    photos = [_photo(tmp_path / f"{query}.jpg") for query in range(4)]
    data = _data(
        tmp_path, query_paths=photos, predictions=predictions, distances=distances,
        positives=positives,
    )  # fmt: skip
    value = _written(tmp_path / "report.html", data).value
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
        value = _written(tmp_path / "report.html", replace(data, **changes)).value
        assert value["confidence"] is None


def test_saliency_is_a_byte_a_cell(tmp_path: Path) -> None:
    maps = np.array([[0, 128, 255], [255, 0, 0]], np.uint8), np.zeros((2, 3), np.uint8)
    value = _written(tmp_path / "report.html", _data(tmp_path, saliency={1: maps})).value
    height, width, *cells = value["saliency"]["1"]
    assert (height, width) == (2, 3)
    assert [list(base64.b64decode(one)) for one in cells] == [[0, 128, 255, 255, 0, 0], [0] * 6]


def test_each_photo_is_embedded_once(tmp_path: Path) -> None:
    data = _data(tmp_path)
    # The same photos are queries and database.
    data = replace(data, query_paths=[*data.query_paths[:2], data.database_paths[0]])
    report = _written(tmp_path / "report.html", data)
    assert len(report.pictures()) == len(set(report.paths())) == 2 + 4


def test_photos_nobody_sees_are_not_read(tmp_path: Path) -> None:
    data = _data(tmp_path)
    Path(data.database_paths[0]).unlink()
    report = _written(tmp_path / "report.html", data, neighbours=1)
    assert set(report.value["database"]["shown"]) == {1, 2}


def test_only_the_first_neighbours_are_shown(tmp_path: Path) -> None:
    value = _written(tmp_path / "report.html", _data(tmp_path), neighbours=2).value
    assert (value["k"], value["m"]) == (3, 2)
    assert value["queries"]["near"] == [2, 0, 2, 3, 1, 2]
    assert value["queries"]["right"] == "100100"
    # Whether one is right is known of all of them.
    assert value["queries"]["first"] == [1, 2, 0]


def test_without_ground_truth_nothing_is_right_or_wrong(tmp_path: Path) -> None:
    value = _written(tmp_path / "report.html", _data(tmp_path, recall=None, positives=None)).value
    assert value["recall"] is None
    assert [value["queries"][name] for name in ("positives", "first", "right")] == [None] * 3


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><!-- & \"' {{DATA}}"
    queries = [_photo(tmp_path / "q</script>" / name) for name in HOSTILE_NAMES]
    plain = _written(tmp_path / "plain.html", _data(tmp_path))
    report = _written(
        tmp_path / "report.html",
        _data(
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
    report = _written(tmp_path / "report.html", _data(tmp_path))
    texts, tags = report.page.texts, report.page.tags
    # The one address is the name of SVG's elements.
    used = texts["script"].replace("http://www.w3.org/2000/svg", "") + texts["style"]
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", used)
    asked = [tag[name] for _, tag in tags for name in ("src", "href") if name in tag]
    assert asked == ["data:,"]


def test_the_policy_lets_the_own_script_and_style_run_alone(tmp_path: Path) -> None:
    report = _written(tmp_path / "report.html", _data(tmp_path))
    policy = next(tag["content"] for _, tag in report.page.tags if "http-equiv" in tag)
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules.pop("img-src") == "data:"
    for name in ("script", "style"):
        digest = hashlib.sha256(report.page.texts[name].encode()).digest()
        assert rules.pop(f"{name}-src") == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert rules == {}


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned by a quarter.
    turned = _photo(tmp_path / "turned.jpg", size=(1200, 600), exif=exif, comment=b"home address")
    wide = _photo(tmp_path / "wide.jpg", size=(800, 200))
    small = _photo(tmp_path / "small.jpg", size=(30, 20))
    report = _written(tmp_path / "report.html", _data(tmp_path, query_paths=[turned, wide, small]))

    pictures, value = report.pictures(), report.value["pictures"]
    ours = [pictures[place] for place in report.value["queries"]["picture"]]
    assert [one.size for one in ours] == [(160, 320), (320, 80), (30, 20)]
    assert [one.size for one in pictures] == list(zip(value["width"], value["height"], strict=True))
    assert not ours[0].getexif()
    assert not {"comment", "exif", "icc_profile", "xmp"} & set(ours[0].info)


def test_pictures_keep_to_their_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photos = [tmp_path / f"{index}.jpg" for index in range(40)]
    for photo in photos:
        coarse = Image.fromarray(rng.integers(0, 255, (30, 40, 3)).astype(np.uint8))
        coarse.resize((640, 480)).save(photo)
    data = _data(
        tmp_path, database_paths=photos, query_paths=photos[:10], positives=None, recall=None,
        predictions=np.arange(40).reshape(10, 4), distances=np.ones((10, 4)),
    )  # fmt: skip
    sides, sizes = [], []
    for limit in (10_000_000, 300_000, 150_000, 1):
        report = _written(tmp_path / "report.html", data, thumbnail_bytes=limit)
        sides.append(max(report.value["pictures"]["width"]))
        sizes.append(len("".join(report.value["pictures"]["base64"])))
        assert len(report.pictures()) == 40
    assert sides == sorted(sides, reverse=True)
    assert (sides[0], sides[-1]) == (320, 80)
    assert sizes[1] < 1.1 * 300_000
    assert sizes[2] < 1.1 * 150_000


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    def bar(made: Iterable[Thumbnail], name: str, total: int, **_: object) -> Iterator[Thumbnail]:
        for done, thumbnail in enumerate(made, start=1):
            told.append((done, total))
            yield thumbnail

    monkeypatch.setattr("mixvpr_jax.report.thumbnails.tqdm", bar)
    write_page(tmp_path / "report.html", _data(tmp_path))
    assert told == [(done, 7) for done in range(1, 8)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"2\.jpg: expected an image, found no such file"),
        (b"", r"2\.jpg: expected an image, found an empty file"),
        (b"no image", r"2\.jpg: expected an image \(BMP, .*\), found none of these"),
        (slice(0, 400), r"2\.jpg: expected a whole image, found a broken one"),
    ],
)
def test_a_photo_that_cannot_be_read_is_told_on_the_page(
    tmp_path: Path, content: bytes | slice | None, message: str
) -> None:
    data = _data(tmp_path)
    photo = Path(data.database_paths[2])
    whole = photo.read_bytes()
    photo.unlink()
    if content is not None:
        photo.write_bytes(whole[content] if isinstance(content, slice) else content)
    value = _written(tmp_path / "report.html", data).value["pictures"]
    (problem,) = value["problems"]
    assert re.search(message, problem)
    assert value["base64"].count("") == 1


def test_a_distance_that_is_no_number_keeps_the_page_alive(tmp_path: Path) -> None:
    distances = np.full((3, 3), 0.5, dtype=np.float32)
    distances[1, 2] = np.nan
    value = _written(tmp_path / "report.html", _data(tmp_path, distances=distances)).value
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

    data, output = _data(tmp_path), tmp_path / "output"
    output.mkdir()
    monkeypatch.setattr(Path, failing, fail)
    with pytest.raises((InputError, KeyboardInterrupt)):
        write_page(output / "report.html", data)
    assert list(output.iterdir()) == []


def test_a_failed_write_keeps_the_report_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output = _data(tmp_path), tmp_path / "output"
    output.mkdir()
    write_page(output / "report.html", data)
    before = (output / "report.html").read_bytes()

    def fail(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:1000])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match="expected room on the disk, found: full"):
        write_page(output / "report.html", _data(tmp_path, title="another"))
    assert [path.name for path in output.iterdir()] == ["report.html"]
    assert (output / "report.html").read_bytes() == before


def test_no_program_is_run_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS is one, whatever its file is called: Pillow would have Ghostscript run it."""
    eps = tmp_path / "photo.jpg"
    Image.new("RGB", (64, 48)).save(eps, "EPS")

    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: ran.append(eps))
    with pytest.raises(InputError, match=r"photo.jpg: expected an image \(BMP, .* found none of"):
        make_thumbnail(eps, 32, 50)
    assert ran == []
