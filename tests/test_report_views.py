"""A report's views in Chromium: larger photos, map, saliency, another run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PHONE, count, listed, wait_until
from report_pages import other_run

from mixvpr_jax.report.page import write_page
from mixvpr_jax.report.reader import ReportData, figures_of

COUNT_COLOURS = """() => {
  const { canvas } = atlas.large;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""


def test_a_photo_larger(opened: Any, report: Path, evaluated: ReportData) -> None:
    page = opened(report)
    for key in ("j", "j", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    title = page.locator("#larger-title")
    assert title.text_content() == "Query 2, match 1 of 5"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert title.text_content() == "Query 2, match 3 of 5"
    assert page.locator("#pane-match .photo").get_attribute("data-verdict") == "right"
    path = str(evaluated.database_paths[int(evaluated.predictions[1, 2])])
    assert page.locator("#pane-match .path").text_content() == path
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert title.text_content() == "Query 2, nearest true positive"
    page.keyboard.press("j")
    assert "Query 3" in title.text_content()
    page.keyboard.press("Escape")
    wait_until(page, "!document.querySelector('#larger').open")
    wait_until(page, "document.activeElement.closest('.query')?.dataset.query === '2'")


def test_the_best_positive_that_was_missed(opened: Any, report: Path) -> None:
    page = opened(report)
    ranks = [
        page.locator(f"#query-{number} .missed").text_content().strip() for number in (1, 2, 3)
    ]
    assert ranks[0] == ""
    assert ranks[1].startswith("rank 3")
    assert ranks[2].startswith("rank 13")


def test_the_map_leads_to_queries_and_back(opened: Any, report: Path) -> None:
    page = opened(report)
    for key in ("j", "j", "j", "m"):
        page.keyboard.press(key)
    assert "Query 3" in page.locator("#card").text_content()
    assert page.locator("#card img").first.evaluate("(image) => image.naturalWidth") > 0
    page.keyboard.press("j")
    assert "Query 4" in page.locator("#card").text_content()
    page.keyboard.press("Enter")
    page.wait_for_selector("#query-4[aria-current]")
    assert not page.locator("#atlas").is_visible()
    page.keyboard.press("m")
    page.keyboard.press("0")
    box = page.locator("#atlas-canvas").bounding_box()
    x, y = page.evaluate("pixelsOf(atlas.large, places.queries[10])")
    page.mouse.move(box["x"] + x, box["y"] + y)
    wait_until(page, "document.querySelector('#card').textContent.includes('Query 11')")
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_selector("#query-11[aria-current]")


def test_the_map_is_drawn_and_moves(opened: Any, report: Path) -> None:
    page = opened(report)
    page.click("#show-map")
    wait_until(page, "atlas.large.canvas.width > 600")
    assert page.evaluate(COUNT_COLOURS) > 10
    view = "[atlas.large.east, atlas.large.north, atlas.large.scale]"
    before = page.evaluate(view)
    page.click("#zoom-in")
    assert page.evaluate(view)[2] == pytest.approx(1.6 * before[2])
    page.mouse.move(500, 400)
    page.mouse.down()
    page.mouse.move(600, 450, steps=4)
    page.mouse.up()
    moved = page.evaluate(view)
    assert moved[0] == pytest.approx(before[0] - 100 / moved[2])
    assert moved[1] == pytest.approx(before[1] + 50 / moved[2])
    page.click("#fit")
    assert page.evaluate(view) == pytest.approx(before)


def test_where_the_model_looks(opened: Any, report: Path) -> None:
    page = opened(report)
    assert page.locator(".heat").count() == 0
    page.keyboard.press("h")
    assert (
        page.locator(".queries .heat").count() == 2 * 4
    )  # query and first match of the first four
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    assert page.locator("#larger .heat").count() == 2
    page.keyboard.press("ArrowRight")
    assert page.locator("#larger .heat").count() == 1
    page.keyboard.press("h")
    assert page.locator(".heat").count() == 0


def test_two_runs_are_compared(opened: Any, comparison: Path) -> None:
    page = opened(comparison)
    headline = page.locator(".recall tbody tr").nth(1).text_content()
    assert "ConvAP" in headline
    assert "−25.0" in headline
    assert page.locator("#query-1 .other .match").count() == 5
    assert page.locator("#query-1 .other .distance").all_text_contents() == ["0.625"] * 5
    for key, first, step in (("8", 1, 4), ("7", 2, 4), ("9", 3, 1)):
        page.keyboard.press(key)
        assert listed(page)[:2] == [first, first + step]
        page.keyboard.press(key)
        assert count(page) == "24 queries"
    page.keyboard.press("6")
    assert listed(page) == []


def test_one_neighbour_compared_with_five(
    opened: Any, evaluated: ReportData, tmp_path: Path
) -> None:
    found = {
        name: getattr(evaluated, name)[:, :1] for name in ("predictions", "distances", "right")
    }
    write_page(tmp_path / "report.html", replace(evaluated, other=other_run(evaluated), **found))
    page = opened(tmp_path / "report.html")
    photos = page.locator("#query-2 :is(.other, .missed) .photo").all()
    assert len({photo.bounding_box()["x"] for photo in photos}) == len(photos) == 6


def test_distances_round_once(opened: Any, report: Path) -> None:
    page = opened(report)
    texts = page.evaluate("[0.3, 25.5, 99.9, 2756.4, 12345.6, null].map(metresText)")
    assert texts == ["0.3 m", "25.5 m", "99.9 m", "2,756 m", "12 km", ""]


def test_matches_to_trust(opened: Any, evaluated: ReportData, tmp_path: Path) -> None:
    """18 of 24 queries have a positive. The six right matches: five near, one among wrong ones."""
    distances = np.asarray(evaluated.distances).copy()
    distances[:, 0] = 0.9 + 0.001 * np.arange(24)
    distances[:20:4, 0] = 0.3 + 0.01 * np.arange(5)
    data = replace(evaluated, distances=distances)
    write_page(tmp_path / "report.html", replace(data, other=other_run(data)))
    page = opened(tmp_path / "report.html")
    told = page.locator(".told")
    assert told.all_text_contents() == [
        "score ≥ 0.9422: 100.0 % of the matches are right, "
        "27.8 % of the queries with a positive are found"
    ]
    made = page.locator(".figure", has=told)
    key = made.locator(".key").text_content()
    assert key.startswith("this run, average precision 29.4 %ConvAP, average precision")
    assert made.locator("polyline").count() == 2
    axis = made.locator("svg .upright").all_text_contents()
    assert axis == ["100", "80", "60", "40", "20"]
    box = made.locator("svg").bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 40)
    assert made.locator(".readout").text_content() == "score 0.949: 100.0 %"  # the third of 18
    told.locator("button").click()
    assert count(page) == "5 of 24 queries"
    assert listed(page) == [1, 5, 9, 13, 17][: len(listed(page))]
    assert page.locator("#label").text_content() == "at 100 %: accepted ×"
    assert page.locator("#query-1 .apart").first.get_attribute("title") == "score 0.955"
    again = opened(tmp_path / "report.html", hash=page.evaluate("location.hash"))
    assert count(again) == "5 of 24 queries"


def test_axes_of_percents_end_at_100(opened: Any, evaluated: ReportData, tmp_path: Path) -> None:
    right, positives = np.ones((24, 20), bool), [np.arange(len(evaluated.database_paths))] * 24
    all_right = replace(evaluated, right=right, positives=positives, figures=figures_of({}, {}))
    write_page(tmp_path / "report.html", all_right)
    figures = opened(tmp_path / "report.html").locator(".figure", has_text="Precision over recall")
    axis = figures.locator("svg .upright").all_text_contents()
    assert axis == ["100", "99", "98", "97", "96", "95"]


def test_percents_as_the_command_prints_them(
    opened: Any, evaluated: ReportData, tmp_path: Path
) -> None:
    recall = [(1, 81.25), (5, 81.35), (10, 83.75), (20, 100.0)]
    write_page(tmp_path / "report.html", replace(evaluated, recall=recall))
    cells = opened(tmp_path / "report.html").locator(".recall .ours td").all_text_contents()
    for (_, percent), cell in zip(recall, cells, strict=True):
        assert cell.startswith(f"{percent:.1f}%")


@pytest.mark.parametrize(
    ("given", "shown"),
    [((1, 5, 10, 15, 20, 50), (1, 5, 10, 20)), ((1, 3, 50), (1, 3, 50)), ((2, 20), (2, 20))],
)
def test_the_headline_shows_the_k_that_were_chosen(
    opened: Any, evaluated: ReportData, tmp_path: Path, given: Any, shown: Any
) -> None:
    recall = [(k, 50.0) for k in given]
    write_page(tmp_path / "report.html", replace(evaluated, recall=recall))
    heads = opened(tmp_path / "report.html").locator(".recall thead th").all_text_contents()
    assert heads == [f"R@{k}" for k in shown]


def test_a_precision_that_no_score_reaches(
    opened: Any, evaluated: ReportData, tmp_path: Path
) -> None:
    distances = np.full(np.shape(evaluated.distances), 0.5)
    write_page(tmp_path / "report.html", replace(evaluated, distances=distances))
    page = opened(tmp_path / "report.html")
    assert page.locator(".told").all_text_contents() == ["No score reaches 95 % precision."]
    unknown = replace(evaluated, right=None, positives=None, recall=None, best_positive=None)
    write_page(tmp_path / "report.html", unknown)
    page = opened(tmp_path / "report.html")
    assert page.get_by_text("Precision over recall").count() == 0


def test_latency_names_its_device(opened: Any, report: Path) -> None:
    assert "on TPU v4" in opened(report).locator("#figures").text_content()


def test_a_phone_is_told_that_the_map_moves(opened: Any, report: Path) -> None:
    page = opened(report, PHONE)
    page.click("#show-map")
    assert "Drag" in page.locator("#map-hint").text_content()
    assert page.locator("#map-hint").is_visible()
    page.mouse.click(200, 400)
    assert not page.locator("#map-hint").is_visible()


def test_a_photo_that_is_gone_leaves_a_blank(
    opened: Any, evaluated: ReportData, tmp_path: Path
) -> None:
    gone = [*evaluated.query_paths[:1], tmp_path / "gone.jpg", *evaluated.query_paths[2:]]
    write_page(tmp_path / "report.html", replace(evaluated, query_paths=gone))
    page = opened(tmp_path / "report.html")
    assert "1 photo could not be read" in page.locator("#note").text_content()
    assert "gone.jpg" in page.locator("#note").text_content()
    assert page.locator("#query-2 .asked img").get_attribute("src") is None
    assert page.locator("#query-2 .match img").first.evaluate("(image) => image.naturalWidth") > 0
