"""A report of ten thousand queries in Chromium costs what one of a hundred does.

What that takes in milliseconds, benchmarks/report.py measures.
"""

from pathlib import Path
from typing import Any

from browser import WIDE, count, focused, listed, wait_until

# Nodes that a click adds or removes, until the frame in which its effect is painted.
COUNT_CHANGES = """async () => {
  let nodes = 0;
  const observer = new MutationObserver((records) => {
    for (const { addedNodes, removedNodes } of records) {
      nodes += addedNodes.length + removedNodes.length;
    }
  });
  observer.observe(document, { childList: true, subtree: true });
  const changes = {};
  for (const name of ["lost", "right", "later", "none", "all"]) {
    nodes = 0;
    document.querySelector(`#outcomes [value=${name}]`).click();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    changes[name] = nodes;
  }
  return changes;
}"""


def test_ten_thousand_queries_have_few_elements(opened: Any, ten_thousand: Path) -> None:
    page = opened(ten_thousand)
    wait_until(page, "window.openedAfter && document.readyState === 'complete'")
    assert page.evaluate("document.querySelectorAll('*').length") < 10_000


def test_a_filter_changes_few_elements(opened: Any, ten_thousand: Path) -> None:
    page = opened(ten_thousand)
    wait_until(page, "window.openedAfter")
    changes = page.evaluate(COUNT_CHANGES)
    assert 0 < min(changes.values()) <= max(changes.values()) < 250  # a page's rows, out and in


def test_rows_are_of_one_height(opened: Any, ten_thousand: Path) -> None:
    page = opened(ten_thousand)
    assert count(page) == "10,000 queries"
    assert listed(page)[0] == 1
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_selector("#query-100 img")
    rows = listed(page)
    assert rows == list(range(1, 101))
    assert page.locator("#query-100").get_attribute("aria-posinset") == "100"
    assert page.locator("#query-100").get_attribute("aria-setsize") == "10000"
    # Those that are not in sight have a height to guess the page's from.
    heights = {row.bounding_box()["height"] for row in page.locator(".query").all()[-3:]}
    assert max(heights) - min(heights) < 1


def test_a_link_leads_to_its_query(opened: Any, ten_thousand: Path) -> None:
    page = opened(ten_thousand, hash="#query-7001")
    page.wait_for_selector("#query-7001[aria-current]")
    assert page.locator("#query-7001").bounding_box()["y"] < WIDE[1] / 2
    page.evaluate("location.hash = '#query-12'")
    page.wait_for_selector("#query-12[aria-current]")


def test_a_page_holds_a_hundred_rows(opened: Any, ten_thousand: Path) -> None:
    page = opened(ten_thousand)
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
    page.click("#outcomes [value=lost]")
    assert page.locator("#pages").text_content() == "1 – 100 of 2,500"


def test_the_focus_outlives_scrolling(opened: Any, ten_thousand: Path) -> None:
    page = opened(ten_thousand)
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    page.evaluate("scrollTo(0, 15000)")
    wait_until(page, "document.querySelector('#query-1').getBoundingClientRect().y < -9000")
    assert focused(page) == (1, 1)
    page.keyboard.press("ArrowDown")
    assert focused(page) == (2, 1)
    assert 0 <= page.locator("#query-2").bounding_box()["y"] < WIDE[1]
