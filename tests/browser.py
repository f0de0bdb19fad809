"""Pages in headless Chromium, and what tests ask them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, PHONE, SMALL = (1360, 900), (390, 844), (360, 640)

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        yield browser
        browser.close()


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
