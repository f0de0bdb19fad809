"""A report in Chromium is safe and readable: whatever is missing, in every width and scheme."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PHONE, SMALL, WIDE, focused, wait_until
from report_pages import HOSTILE

from mixvpr_jax.report.page import write_page
from mixvpr_jax.report.reader import ReportData

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

# Ranks, distances and what else stands below a photo, where they do not show whole.
CUT_OFF = """() => [...document.querySelectorAll(".caption")].filter(
  (caption) => caption.scrollWidth > caption.clientWidth).map((caption) => caption.textContent)"""


def test_without_ground_truth_or_coordinates(
    opened: Any, evaluated: ReportData, tmp_path: Path
) -> None:
    bare = ReportData(
        title="bare",
        facts={},
        database_paths=evaluated.database_paths,
        query_paths=evaluated.query_paths,
        predictions=evaluated.predictions,
        distances=evaluated.distances,
    )
    write_page(tmp_path / "report.html", bare)
    page = opened(tmp_path / "report.html")
    assert "no ground truth" in page.locator("#outcome").inner_text()
    for name in ("#outcomes", "#duels", "#show-map", "#show-heat"):
        assert not page.locator(name).is_visible()
    for key in ("1", "6", "m", "h", "j", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#larger").is_visible()
    assert page.locator(".photo:is([data-verdict=right], [data-verdict=wrong])").count() == 0


def test_a_subset_is_not_compared_with_published_figures(
    opened: Any, report: Path, evaluated: ReportData, tmp_path: Path
) -> None:
    published = opened(report).locator(".recall tbody tr").nth(1)
    assert published.text_content() == "MixVPRtable 124.0+1.051.0−1.0––"
    figures = {**evaluated.figures, "is_subset": True}
    write_page(tmp_path / "report.html", replace(evaluated, figures=figures))
    page = opened(tmp_path / "report.html")
    assert page.locator(".recall tbody tr").nth(1).text_content() == "MixVPRtable 124.051.0––"
    assert "missing" in page.locator(".warning").inner_text()


def test_without_queries(opened: Any, evaluated: ReportData, tmp_path: Path) -> None:
    none = np.zeros((0, 5))
    write_page(
        tmp_path / "report.html",
        ReportData(
            title="none",
            facts={},
            database_paths=evaluated.database_paths,
            query_paths=[],
            predictions=none.astype(int),
            distances=none,
            right=none > 0,
        ),
    )
    page = opened(tmp_path / "report.html")
    for key in ("1", "j", "m", "h"):
        page.keyboard.press(key)
    assert page.get_by_text("The evaluation has no queries.").is_visible()
    assert not page.locator("#none-left").is_visible()


def test_hostile_names_are_text(opened: Any, report: Path) -> None:
    page = opened(report)
    page.evaluate("goTo(3)")
    assert page.locator("#query-4 .asked .name").text_content() == HOSTILE
    assert page.locator("#query-5 .asked .name").text_content() == "\udcff\udcfe.jpg"
    assert page.locator("img[src='x']").count() == 0
    wait_until(
        page, "[...document.querySelectorAll('.query img')].every((one) => one.naturalWidth)"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "size", [WIDE, (1000, 800), PHONE, SMALL], ids=["wide", "middle", "phone", "small"]
)
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
        assert page.evaluate(CUT_OFF) == [], keys
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
    wait_until(page, "document.querySelector('#query-24').offsetHeight > 250")
    assert focused(page) == (24, 0)
    assert 0 <= page.locator("#query-24").bounding_box()["y"] < PHONE[1]
    assert len(page.pdf()) > 10_000
