"""The report in headless Chromium: quick, usable by keys, safe, and readable at every width."""

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, evaluation, heat_maps, large_report, other_run, started_browser
from PIL import Image

from mixvpr_jax.report.page import write_page
from mixvpr_jax.report.reader import ReportData

pytest.importorskip("playwright", reason="needs playwright")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")

WIDE, PHONE, SMALL = (1360, 900), (390, 844), (360, 640)
HOSTILE = "<img src=x onerror=alert(1)>&amp;\"' Zürich 日本.jpg"
LIMIT_TO_OPEN_MS = 2000  # with 10,000 queries, and to filter them: what the issue asks for
LIMIT_TO_FILTER_MS = 100

# Since the page was asked for, until the first row is there with its pictures.
WATCH_OPENING = """
window.openedAfter = null;
(function look() {
  const images = [...(document.querySelector(".query")?.querySelectorAll("img") ?? [])];
  const shown = images.length && images.every((image) => image.complete && image.naturalWidth);
  if (shown) requestAnimationFrame(() => (window.openedAfter = performance.now()));
  else requestAnimationFrame(look);
})();
"""

# From the click until the frame in which its effect is painted.
TIME_CLICKS = """async () => {
  const times = {};
  for (const name of ["lost", "right", "later", "none", "all"]) {
    const start = performance.now();
    document.querySelector(`#outcomes [data-value=${name}]`).click();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times[name] = performance.now() - start;
  }
  return times;
}"""

# The least contrast of any text that is shown against what it stands on.
LEAST_CONTRAST = """() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
      const level = part / 255;
      return level <= 0.03928 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/rgba\\(.*, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  let least = { ratio: 99 };
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const style = getComputedStyle(element);
    const unseen = element.matches("script, noscript p, .unseen, :disabled, svg *");
    if (!text || unseen || !element.checkVisibility()) continue;
    const [one, other] = [light(style.color), light(ground(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < least.ratio) least = { ratio, text: element.textContent, tag: element.className };
  }
  return least;
}"""


COUNT_COLOURS = """() => {
  const { canvas } = atlas.large;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started_browser() as browser:
        yield browser


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens a page; whatever it complains about fails the test."""
    contexts, errors = [], []

    def open_page(path: Path, size: tuple[int, int] = WIDE, hash: str = "", **options: Any) -> Any:
        viewport = {"width": size[0], "height": size[1]}
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.add_init_script(WATCH_OPENING)
        page.goto(path.as_uri() + hash)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """24 queries on 30 photos, with names that are markup, not UTF-8, or have spaces in them."""
    folder = tmp_path_factory.mktemp("photos")
    database, queries = [], []
    for kind, paths, count in (("database", database, 30), ("queries", queries, 24)):
        (folder / kind).mkdir()
        for index in range(count):
            name = {3: HOSTILE, 4: os.fsdecode(b"\xff\xfe.jpg")}.get(index, f"{kind} {index}.jpg")
            paths.append(folder / kind / name)
            shade = np.full((48, 64, 3), (8 * index, 90, 120), np.uint8)
            Image.fromarray(shade).save(paths[-1], "JPEG")
    data = evaluation(database, queries, k=8)
    return replace(data, saliency=heat_maps(4))


@pytest.fixture(scope="module")
def report(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, data)
    return path


@pytest.fixture(scope="module")
def comparison(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comparison") / "report.html"
    write_page(path, replace(data, other=other_run(data)))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "report.html"
    assert 30e6 < large_report(path) < 80e6
    return path


def wait_until(page: Any, condition: str) -> None:
    """What page.wait_for_function does, whose eval inside the page the report's policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"10 s passed, and not yet: {condition}")


def listed(page: Any) -> list[int]:
    """The numbers of the queries that have rows, from the first on."""
    rows = page.evaluate("[...document.querySelectorAll('.query')].map((row) => row.dataset.query)")
    return [int(row) + 1 for row in rows]


def focused(page: Any) -> tuple[int, int]:
    """Number of the query and column of the photo that has the focus."""
    query = page.evaluate("document.activeElement.closest('.query').dataset.query")
    return int(query) + 1, int(page.evaluate("document.activeElement.dataset.column"))


def count(page: Any) -> str:
    return page.locator("#count").text_content()


# Ten thousand queries


def test_ten_thousand_queries_open_quickly(opened: Any, large: Path) -> None:
    times = []
    for _ in range(3):  # the machine may be busy with something else
        page = opened(large)
        wait_until(page, "window.openedAfter")
        times.append(page.evaluate("window.openedAfter"))
        if min(times) < LIMIT_TO_OPEN_MS:
            break
    assert min(times) < LIMIT_TO_OPEN_MS, times


def test_ten_thousand_queries_are_filtered_quickly(opened: Any, large: Path) -> None:
    page = opened(large)
    wait_until(page, "window.openedAfter")
    runs, fastest = [], {}
    while len(runs) < 5 and not (runs and max(fastest.values()) < LIMIT_TO_FILTER_MS):
        runs.append(page.evaluate(TIME_CLICKS))
        fastest = {name: min(run[name] for run in runs) for name in runs[0]}
    assert max(fastest.values()) < LIMIT_TO_FILTER_MS, runs


def test_only_rows_near_the_window_exist(opened: Any, large: Path) -> None:
    page = opened(large)
    assert count(page) == "10,000 queries"
    assert listed(page)[0] == 1
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_selector("#query-100 img")
    rows = listed(page)
    assert len(rows) < 30
    assert rows == list(range(rows[0], 101))
    assert page.locator("#query-100").get_attribute("aria-posinset") == "100"
    assert page.locator("#query-100").get_attribute("aria-setsize") == "10000"
    heights = {row.bounding_box()["height"] for row in page.locator(".query").all()}
    assert max(heights) - min(heights) < 1


def test_a_link_leads_to_its_query(opened: Any, large: Path) -> None:
    page = opened(large, hash="#query-7001")
    page.wait_for_selector("#query-7001[aria-current]")
    assert page.locator("#query-7001").bounding_box()["y"] < WIDE[1] / 2
    page.evaluate("location.hash = '#query-12'")
    page.wait_for_selector("#query-12[aria-current]")


def test_a_page_holds_a_hundred_rows(opened: Any, large: Path) -> None:
    page = opened(large)
    assert page.locator("#pages").text_content() == "1 – 100 of 10,000"
    assert page.locator("#page-before").is_disabled()
    page.click("#page-after")
    page.wait_for_selector("#query-101")
    assert page.locator("#query-101").bounding_box()["y"] < WIDE[1] / 2
    assert page.evaluate("location.hash") == "#page=2"
    assert listed(page)[0] == 101
    # Keys go from page to page.
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert focused(page) == (100, 0)
    page.keyboard.press("End")
    assert focused(page) == (10_000, 0)
    assert page.locator("#pages").text_content() == "9,901 – 10,000 of 10,000"
    assert page.locator("#page-after").is_disabled()
    page.click("#outcomes [data-value=lost]")
    assert page.locator("#pages").text_content() == "1 – 100 of 2,500"


def test_the_focus_outlives_scrolling(opened: Any, large: Path) -> None:
    page = opened(large)
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    page.evaluate("scrollTo(0, 15000)")
    wait_until(page, "document.querySelectorAll('.query')[1].dataset.query > 40")
    assert focused(page) == (1, 1)
    page.keyboard.press("ArrowDown")
    assert focused(page) == (2, 1)
    assert 0 <= page.locator("#query-2").bounding_box()["y"] < WIDE[1]


# What is listed, and in which order


def test_filters_list_what_they_say(opened: Any, report: Path) -> None:
    page = opened(report)
    expected = {"right": 1, "later": 2, "lost": 3, "none": 4}
    for name, first in expected.items():
        button = page.locator(f"#outcomes [data-value={name}]")
        assert button.locator("span").text_content() == "6"
        button.click()
        assert listed(page) == list(range(first, 25, 4))[: len(listed(page))]
        assert count(page) == "6 of 24 queries"
        assert button.get_attribute("aria-pressed") == "true"
    page.locator("#outcomes [data-value=all]").click()
    assert count(page) == "24 queries"


def test_search_looks_into_the_names_of_queries_and_neighbours(opened: Any, report: Path) -> None:
    page = opened(report)
    for text, found in (
        ("QUERIES 20.", [21]),
        ("onerror=alert", None),
        ("zürich 日本", None),
        ("no such name", []),
    ):
        page.fill("#search", text)
        assert listed(page) == found if found is not None else 4 in listed(page)
    assert page.locator("#none-left").is_visible()
    page.fill("#search", "database 7.jpg")
    assert 0 < len(listed(page)) < 24
    for row in page.locator(".query").all():
        assert "database 7.jpg" in [name.text_content() for name in row.locator(".name").all()]


def test_conditions_narrow_the_list(opened: Any, report: Path) -> None:
    page = opened(report)
    page.get_by_role("button", name="night", exact=True).click()
    assert listed(page)[:3] == [1, 3, 5]
    assert page.locator("#outcomes [data-value=all] span").text_content() == "12"
    page.locator("#label").click()
    assert count(page) == "24 queries"


def test_orders(opened: Any, report: Path, data: ReportData) -> None:
    page = opened(report)
    assert data.best_positive is not None
    distance = np.argsort(np.asarray(data.distances)[:, 0], kind="stable") + 1
    rank = [*range(3, 25, 4), *range(2, 25, 4), *range(1, 25, 4), *range(4, 25, 4)]
    for name, expected in (("distance", list(distance)), ("rank", rank)):
        page.select_option("#sort", name)
        assert listed(page) == expected[: len(listed(page))]
    page.click("#reverse")  # those without any positive stay last
    assert listed(page)[:5] == [1, 5, 9, 13, 17]
    page.select_option("#sort", "metres")
    first = page.locator(".query .metres").first.text_content()
    assert first == page.evaluate(
        "metresText(Math.max(...queries.metres.filter((_, at) => at % 5 === 0)))"
    )


def test_a_view_can_be_sent(opened: Any, report: Path, large: Path) -> None:
    page = opened(report)
    page.click("#outcomes [data-value=later]")
    page.get_by_role("button", name="day", exact=True).click()
    page.fill("#search", "queries")
    page.select_option("#sort", "distance")
    page.click("#reverse")
    sent = page.evaluate("location.hash")
    assert sent == "#outcome=later&label=light%3Aday&search=queries&sort=distance&reversed=1"
    there = opened(report, hash=sent)
    assert listed(there) == listed(page)
    assert count(there) == count(page) == "6 of 24 queries"
    there.evaluate("location.hash = '#outcome=later&search=no such'")
    wait_until(there, "document.querySelector('#count').textContent === '0 of 24 queries'")
    assert there.input_value("#search") == "no such"
    assert listed(opened(large, hash="#page=3"))[0] == 201


@pytest.mark.parametrize(
    "hash",
    ["#outcome=constructor&sort=toString&run=x", "#page=-1", "#page=1e9", "#label=<b>", "#%"],
)
def test_an_address_of_nobody_knows_what(opened: Any, report: Path, hash: str) -> None:
    page = opened(report, hash=hash)
    assert count(page) == "24 queries"
    assert listed(page)[0] == 1


def test_the_list_is_saved_as_it_is_shown(opened: Any, comparison: Path, data: ReportData) -> None:
    page = opened(comparison)
    page.click("#outcomes [data-value=later]")
    page.select_option("#sort", "distance")
    with page.expect_download() as download:
        page.click("#save")
    with Path(download.value.path()).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    order = [query for query in np.argsort(data.distances[:, 0]) if query % 4 == 1]
    assert [row["query"] for row in rows[::10]] == [str(data.query_paths[q]) for q in order]
    assert [row["run"] for row in rows[:10]] == ["nano on the line"] * 5 + ["ConvAP"] * 5
    assert [row["rank"] for row in rows[:10]] == [*"12345"] * 2
    assert rows[2]["correct"] == "1" and rows[2]["metres"] == "3"
    paths = list(map(str, data.database_paths))
    assert paths.index(rows[0]["prediction"]) == data.predictions[order[0], 0]
    assert float(rows[0]["descriptor_distance"]) == pytest.approx(
        data.distances[order[0], 0], abs=1e-4
    )


# Keys


def test_keys_go_through_the_list(opened: Any, report: Path) -> None:
    page = opened(report)
    for key, expected in (
        ("j", (1, 0)), ("j", (2, 0)), ("ArrowRight", (2, 1)), ("ArrowDown", (3, 1)),
        ("k", (2, 1)), ("ArrowUp", (1, 1)), ("ArrowLeft", (1, 0)), ("ArrowLeft", (1, 0)),
        ("End", (24, 0)), ("Home", (1, 0)),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert focused(page) == expected, key


def test_digits_choose_and_the_focus_stays_where_it_can(opened: Any, report: Path) -> None:
    page = opened(report)
    for _ in range(3):
        page.keyboard.press("j")
    page.keyboard.press("4")
    assert listed(page)[0] == 3
    assert focused(page) == (3, 0)
    page.keyboard.press("2")
    page.keyboard.press("j")
    assert focused(page) == (1, 0)


def test_slash_searches_and_escape_clears(opened: Any, report: Path) -> None:
    page = opened(report)
    page.keyboard.press("/")
    page.keyboard.type("queries 1m")  # letters are text here, not keys
    assert page.input_value("#search") == "queries 1m"
    assert listed(page) == []
    page.keyboard.press("Escape")
    assert page.input_value("#search") == ""
    assert count(page) == "24 queries"


def test_the_keys_are_told(opened: Any, report: Path) -> None:
    page = opened(report)
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    told = page.locator("#help kbd").all_text_contents()
    assert {"j", "k", "/", "1", "5", "m", "h", "Enter", "Esc"} <= set(told)
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


# Larger, map, where the model looks, another run


def test_a_photo_larger(opened: Any, report: Path, data: ReportData) -> None:
    page = opened(report)
    for key in ("j", "j", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    title = page.locator("#larger-title")
    assert title.text_content() == "Query 2, match 1 of 5"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert title.text_content() == "Query 2, match 3 of 5"
    assert page.locator("#pane-match .photo").get_attribute("data-verdict") == "right"
    path = str(data.database_paths[int(data.predictions[1, 2])])
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
    assert page.locator("#card-query").evaluate("(image) => image.naturalWidth") > 0
    page.keyboard.press("j")
    assert "Query 4" in page.locator("#card").text_content()
    page.keyboard.press("Enter")
    page.wait_for_selector("#query-4[aria-current]")
    assert not page.locator("#atlas").is_visible()
    page.keyboard.press("m")
    page.keyboard.press("0")
    box = page.locator("#atlas-canvas").bounding_box()
    x = page.evaluate("acrossOf(atlas.large, places.queries.east[10])")
    y = page.evaluate("downOf(atlas.large, places.queries.north[10])")
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
    assert page.locator("#query-1 .others .match").count() == 5
    assert page.locator("#query-1 .others .distance").all_text_contents() == ["0.625"] * 5
    for key, first, step in (("8", 1, 4), ("7", 2, 4), ("9", 3, 1)):
        page.keyboard.press(key)
        assert listed(page)[:2] == [first, first + step]
        page.keyboard.press(key)
        assert count(page) == "24 queries"
    page.keyboard.press("6")
    assert listed(page) == []


def test_latency_names_its_device(opened: Any, report: Path) -> None:
    assert "on TPU v4" in opened(report).locator("#figures").text_content()


def test_a_phone_is_told_that_the_map_moves(opened: Any, report: Path) -> None:
    page = opened(report, PHONE)
    page.click("#show-map")
    assert "Drag" in page.locator("#map-hint").text_content()
    assert page.locator("#map-hint").is_visible()
    page.mouse.click(200, 400)
    assert not page.locator("#map-hint").is_visible()


def test_a_photo_that_is_gone_leaves_a_blank(opened: Any, data: ReportData, tmp_path: Path) -> None:
    gone = [*data.query_paths[:1], tmp_path / "gone.jpg", *data.query_paths[2:]]
    write_page(tmp_path / "report.html", replace(data, query_paths=gone))
    page = opened(tmp_path / "report.html")
    assert "1 photo could not be read" in page.locator("#note").text_content()
    assert "gone.jpg" in page.locator("#note").text_content()
    assert page.locator("#query-2 .asked img").get_attribute("src") is None
    assert page.locator("#query-2 .match img").first.evaluate("(image) => image.naturalWidth") > 0


# Whatever is missing, whatever it is called, wherever it is read


def test_without_ground_truth_or_coordinates(opened: Any, data: ReportData, tmp_path: Path) -> None:
    bare = ReportData(
        "bare", {}, data.database_paths, data.query_paths, data.predictions, data.distances
    )
    write_page(tmp_path / "report.html", bare)
    page = opened(tmp_path / "report.html")
    assert "no ground truth" in page.locator("#outcome").text_content()
    for name in ("#outcomes", "#duels", "#show-map", "#show-heat"):
        assert not page.locator(name).is_visible()
    for key in ("1", "6", "m", "h", "j", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#larger").is_visible()
    assert page.locator(".badge").count() == 0


def test_a_subset_is_not_compared_with_published_figures(
    opened: Any, report: Path, data: ReportData, tmp_path: Path
) -> None:
    published = opened(report).locator(".recall tbody tr").nth(1)
    assert published.text_content() == "MixVPRtable 124.0+1.051.0−1.0––"
    write_page(tmp_path / "report.html", replace(data, is_subset=True))
    page = opened(tmp_path / "report.html")
    assert page.locator(".recall tbody tr").nth(1).text_content() == "MixVPRtable 124.051.0––"
    assert "missing" in page.locator(".warning").text_content()


def test_without_queries(opened: Any, data: ReportData, tmp_path: Path) -> None:
    none = np.zeros((0, 5))
    write_page(
        tmp_path / "report.html",
        ReportData("none", {}, data.database_paths, [], none.astype(int), none, right=none > 0),
    )
    page = opened(tmp_path / "report.html")
    for key in ("1", "j", "m", "h"):
        page.keyboard.press(key)
    assert "no queries" in page.locator("#none-left").text_content()


def test_hostile_names_are_text(opened: Any, report: Path) -> None:
    page = opened(report)
    assert page.locator("#query-4 .asked .name").text_content() == HOSTILE
    assert page.locator("#query-5 .asked .name").text_content() == "\udcff\udcfe.jpg"
    assert page.locator("img[src='x']").count() == 0
    wait_until(
        page, "[...document.querySelectorAll('.query img')].every((one) => one.naturalWidth)"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE, SMALL], ids=["wide", "phone", "small"])
def test_it_is_readable(opened: Any, comparison: Path, size: tuple[int, int], scheme: str) -> None:
    page = opened(comparison, size, color_scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 21, 23)"
    assert dark == (scheme == "dark")
    width = "document.documentElement.scrollWidth"
    for keys in ((), ("j", "Enter"), ("Escape", "m"), ("Escape", "?")):
        for key in keys:
            page.keyboard.press(key)
        assert page.evaluate(width) <= size[0], keys
        least = page.evaluate(LEAST_CONTRAST)
        assert least["ratio"] >= 4.5, least
    page.keyboard.press("Escape")
    # Nothing of a row is cut off, and rows do not lie on one another.
    boxes = [row.bounding_box() for row in page.locator(".query").all()]
    for one, following in pairwise(boxes):
        assert one["y"] + one["height"] <= following["y"] + 1
    for photo in page.locator("#query-1 .photo").all():
        box = photo.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0]


def test_the_list_survives_another_width_and_paper(opened: Any, report: Path) -> None:
    page = opened(report)
    for key in ("j", "End"):
        page.keyboard.press(key)
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    wait_until(page, "list.height > 250")
    assert focused(page) == (24, 0)
    assert 0 <= page.locator("#query-24").bounding_box()["y"] < PHONE[1]
    assert len(page.pdf()) > 10_000
    wait_until(page, "document.querySelectorAll('.query').length < 24")
