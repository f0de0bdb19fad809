"""The report holds what it was given, keeps to itself, and appears whole or not at all."""

import base64
import errno
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mixvpr_jax.evaluation import report
from mixvpr_jax.evaluation.report import ReportData, readable_name, write_report

HOSTILE_NAMES = (
    "<script>alert(1)<!--&amp;\"'.jpg",
    "]]>&lt;Zürich 日本\u2028.jpg",
    os.fsdecode(b"not utf-8 \xff.jpg"),
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
        "recall": {1: 33.3, 5: 66.7, 10: 66.7, 20: 66.7},
        "database_paths": [_photo(folder / f"database/{i}.jpg", 40 * i) for i in range(4)],
        "query_paths": [_photo(folder / f"queries/{i}.jpg", 50 * i) for i in range(3)],
        "predictions": np.array([[2, 0, 1], [2, 3, 0], [1, 2, 3]]),
        "distances": np.array(
            [[0.25, 0.5, 1.0], [0.125, 0.75, 1.5], [0.1, 0.2, 0.3]], dtype=np.float32
        ),
        "positives": [np.array([2]), np.array([3, 1]), np.array([], dtype=np.int64)],
    }
    return ReportData(**(parts | changes))


class _Page(HTMLParser):
    """Tags of a page with their attributes, and the text of its data element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][1].get("id") == "report-data":
            self.data += data


def _written(path: Path, data: ReportData, **options: int) -> dict[str, Any]:
    write_report(path, data, **options)
    return json.loads(_Page(path.read_text(encoding="utf-8")).data)


def _thumbnail(entry: dict[str, Any]) -> Image.Image:
    head, _, encoded = entry["uri"].partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_the_page_holds_what_was_given(tmp_path: Path) -> None:
    data = _data(tmp_path)
    value = _written(tmp_path / "report.html", data)

    assert value["title"] == "nano on city"
    assert value["facts"] == [["model", "nano"], ["dataset", "city"], ["protocol", "25 m"]]
    assert value["recall"] == [[1, 33.3], [5, 66.7], [10, 66.7], [20, 66.7]]
    assert value["has_ground_truth"] is True
    assert value["total_queries"] == 3
    assert [query["number"] for query in value["queries"]] == [1, 2, 3]
    assert [query["positives"] for query in value["queries"]] == [1, 2, 0]
    for query, entry in enumerate(value["queries"]):
        shown = entry["neighbours"]
        assert value["images"][entry["image"]]["path"] == str(data.query_paths[query])
        assert [value["images"][one["image"]]["path"] for one in shown] == [
            str(data.database_paths[index]) for index in data.predictions[query]
        ]
        assert [one["distance"] for one in shown] == pytest.approx(
            data.distances[query].tolist(), abs=1e-6
        )
    assert [[one["right"] for one in entry["neighbours"]] for entry in value["queries"]] == [
        [True, False, False],
        [False, True, False],
        [False, False, False],
    ]


def test_each_photo_is_embedded_once(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    value = _written(path, _data(tmp_path))
    assert len(value["images"]) == len({entry["path"] for entry in value["images"]}) == 3 + 4
    assert path.read_text(encoding="utf-8").count("data:image/jpeg") == 3 + 4


def test_only_the_first_neighbours_are_shown(tmp_path: Path) -> None:
    value = _written(tmp_path / "report.html", _data(tmp_path), neighbours=2)
    assert [len(entry["neighbours"]) for entry in value["queries"]] == [2, 2, 2]


def test_a_cut_list_knows_the_whole_number(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    value = _written(path, _data(tmp_path), max_queries=2)
    assert [entry["number"] for entry in value["queries"]] == [1, 2]
    assert value["total_queries"] == 3
    # The sentence is put together in the page, from these two numbers.
    assert "`First ${grouped(shown)} of ${plural(total" in path.read_text(encoding="utf-8")


def test_without_ground_truth_nothing_is_right_or_wrong(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    value = _written(path, _data(tmp_path, recall=None, positives=None))
    assert value["recall"] is None
    assert value["has_ground_truth"] is False
    assert {one["right"] for entry in value["queries"] for one in entry["neighbours"]} == {None}
    assert {entry["positives"] for entry in value["queries"]} == {None}
    assert "no ground truth" in path.read_text(encoding="utf-8")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><!-- & \"'"
    queries = [_photo(tmp_path / "q</script>" / name) for name in HOSTILE_NAMES]
    plain, path = tmp_path / "plain.html", tmp_path / "report.html"
    write_report(plain, _data(tmp_path))
    value = _written(
        path, _data(tmp_path, query_paths=queries, title=hostile, facts={hostile: hostile})
    )

    assert value["title"] == hostile
    assert value["facts"] == [[hostile, hostile]]
    assert [value["images"][entry["image"]]["path"] for entry in value["queries"]] == [
        str(query) for query in queries
    ]
    # The same tags as for harmless names: nothing of the data became markup.
    assert _Page(path.read_text(encoding="utf-8")).tags == _Page(plain.read_text()).tags


def test_data_never_becomes_markup_in_the_browser() -> None:
    template = report.TEMPLATE.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", template)
    assert template.count(report.PLACEHOLDER) == 1


def test_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, _data(tmp_path))
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'; img-src data:;" in text
    asked = [tag[name] for _, tag in _Page(text).tags for name in ("src", "href") if name in tag]
    assert asked == ["data:,"]


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned by a quarter.
    turned = _photo(tmp_path / "turned.jpg", size=(600, 300), exif=exif, comment=b"home address")
    wide = _photo(tmp_path / "wide.jpg", size=(800, 200))
    small = _photo(tmp_path / "small.jpg", size=(30, 20))
    value = _written(tmp_path / "report.html", _data(tmp_path, query_paths=[turned, wide, small]))

    entries = [value["images"][entry["image"]] for entry in value["queries"]]
    assert [(entry["width"], entry["height"]) for entry in entries] == [
        (120, 240),
        (240, 60),
        (30, 20),
    ]
    thumbnails = [_thumbnail(entry) for entry in entries]
    assert [one.size for one in thumbnails] == [(120, 240), (240, 60), (30, 20)]
    assert not thumbnails[0].getexif()
    assert not thumbnails[0].info.get("comment")


def test_a_distance_that_is_no_number_keeps_the_page_alive(tmp_path: Path) -> None:
    distances = np.full((3, 3), 0.5, dtype=np.float32)
    distances[1, 2] = np.nan
    value = _written(tmp_path / "report.html", _data(tmp_path, distances=distances))
    assert [one["distance"] for one in value["queries"][1]["neighbours"]] == [0.5, 0.5, None]


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": np.zeros((2, 3), int)}, r"predictions: expected \[3, k\]"),
        ({"predictions": np.full((3, 3), 4)}, "expected indices 0 to 3, found 4 to 4"),
        ({"predictions": np.full((3, 3), -1)}, "expected indices 0 to 3, found -1 to -1"),
        ({"distances": np.zeros((3, 2))}, r"distances: expected \(3, 3\), found \(3, 2\)"),
        ({"positives": [np.array([1])]}, "positives: expected 3 arrays, found 1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "report.html", _data(tmp_path, **changes))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("limits", [{"neighbours": 0}, {"max_queries": 0}])
def test_limits_below_one_are_refused(tmp_path: Path, limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        write_report(tmp_path / "report.html", _data(tmp_path), **limits)


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
    with pytest.raises(type(error)):
        write_report(output / "report.html", data)
    assert list(output.iterdir()) == []


def test_a_failed_write_keeps_the_report_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output = _data(tmp_path), tmp_path / "output"
    output.mkdir()
    write_report(output / "report.html", data)
    before = (output / "report.html").read_bytes()

    def fail(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:1000])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="full"):
        write_report(output / "report.html", _data(tmp_path, title="another"))
    assert [path.name for path in output.iterdir()] == ["report.html"]
    assert (output / "report.html").read_bytes() == before
