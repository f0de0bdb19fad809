"""A report's list in Chromium: filtered, ordered, sent, saved, and used by keys."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import count, focused, listed, wait_until

from mixvpr_jax.report.reader import ReportData


def test_filters_list_what_they_say(opened: Any, report: Path) -> None:
    page = opened(report)
    expected = {"right": 1, "later": 2, "lost": 3, "none": 4}
    for name, first in expected.items():
        button = page.locator(f"#outcomes [value={name}]")
        assert button.locator("span").text_content() == "6"
        button.click()
        assert listed(page) == list(range(first, 25, 4))[: len(listed(page))]
        assert count(page) == "6 of 24 queries"
        assert button.get_attribute("aria-pressed") == "true"
    page.locator("#outcomes [value=all]").click()
    assert count(page) == "24 queries"


def test_search_looks_into_the_names_of_queries_and_neighbours(opened: Any, report: Path) -> None:
    page = opened(report)
    for text, found in (
        ("QUERIES 20.", [21]),
        ("onerror=alert", None),
        ("zürich 日本", None),
        ("zu\u0308rich", None),
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
    assert page.locator("#outcomes [value=all] span").text_content() == "12"
    page.locator("#label").click()
    assert count(page) == "24 queries"


def test_orders(opened: Any, report: Path, evaluated: ReportData) -> None:
    page = opened(report)
    assert evaluated.best_positive is not None
    distance = np.argsort(np.asarray(evaluated.distances)[:, 0], kind="stable") + 1
    rank = [*range(3, 25, 4), *range(2, 25, 4), *range(1, 25, 4), *range(4, 25, 4)]
    for name, expected in (("distance", list(distance)), ("rank", rank)):
        page.select_option("#sort", name)
        assert listed(page) == expected[: len(listed(page))]
    page.click("#reverse")  # those without any positive stay last
    assert listed(page)[:4] == [1, 5, 9, 13]
    page.select_option("#sort", "metres")
    first = page.locator(".query .metres").first.text_content()
    assert first == page.evaluate(
        "metresText(Math.max(...queries.metres.filter((_, at) => at % 5 === 0)))"
    )


def test_a_view_can_be_sent(opened: Any, report: Path, ten_thousand: Path) -> None:
    page = opened(report)
    page.click("#outcomes [value=later]")
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
    assert listed(opened(ten_thousand, hash="#page=3"))[0] == 201


@pytest.mark.parametrize(
    "hash",
    ["#outcome=constructor&sort=toString&run=x", "#page=-1", "#page=1e9", "#label=<b>", "#%"],
)
def test_an_address_of_nobody_knows_what(opened: Any, report: Path, hash: str) -> None:
    page = opened(report, hash=hash)
    assert count(page) == "24 queries"
    assert listed(page)[0] == 1


def test_the_list_is_saved_as_it_is_shown(
    opened: Any, comparison: Path, evaluated: ReportData
) -> None:
    page = opened(comparison)
    page.click("#outcomes [value=later]")
    page.select_option("#sort", "distance")
    with page.expect_download() as download:
        page.click("#save")
    with Path(download.value.path()).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    order = [query for query in np.argsort(evaluated.distances[:, 0]) if query % 4 == 1]
    assert [row["query"] for row in rows[::10]] == [str(evaluated.query_paths[q]) for q in order]
    assert [row["run"] for row in rows[:10]] == ["nano on the line"] * 5 + ["ConvAP"] * 5
    assert [row["rank"] for row in rows[:10]] == [*"12345"] * 2
    assert rows[2]["correct"] == "1" and rows[2]["metres"] == "3"
    paths = list(map(str, evaluated.database_paths))
    assert paths.index(rows[0]["prediction"]) == evaluated.predictions[order[0], 0]
    assert float(rows[0]["descriptor_distance"]) == pytest.approx(
        evaluated.distances[order[0], 0], abs=1e-4
    )


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
