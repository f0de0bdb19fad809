"""A report of ten thousand queries beside one of a hundred: python benchmarks/report.py.

Both are opened in headless Chromium, until the first row is painted with its pictures; then each
filter is clicked, until its effect is painted. The fastest of a few rounds counts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro
from playwright.sync_api import sync_playwright

sys.path.append(str(Path(__file__).parent.parent))
sys.path.append(str(Path(__file__).parent.parent / "tests"))

from browser import ARGUMENTS, CHROMIUM, WATCH_OPENING, WIDE, wait_until
from report_pages import large_report
from timing import machine

TIME_CLICKS = """async () => {
  const times = [];
  for (const name of ["lost", "right", "later", "none", "all"]) {
    const start = performance.now();
    document.querySelector(`#outcomes [value=${name}]`).click();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  return times;
}"""


def main(rounds: int = 5) -> None:
    """Prints milliseconds.

    Args:
        rounds: How often each report is opened and filtered, in turn.
    """
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        reports = {count: Path(folder) / f"{count}.html" for count in (100, 10_000)}
        megabytes = {count: large_report(path, count) / 1e6 for count, path in reports.items()}
        times = {
            count: [time_report(browser, path) for _ in range(rounds)]
            for count, path in reports.items()
        }
        browser.close()
    print("| queries | MB | opens in | slowest filter in |\n| ---: | ---: | ---: | ---: |")
    for count, runs in times.items():
        opened = min(run[0] for run in runs)
        slowest = max(map(min, zip(*(run[1] for run in runs), strict=True)))
        print(f"| {count:,} | {megabytes[count]:.1f} | {opened:.0f} ms | {slowest:.0f} ms |")
    print(f"\n{machine()}")


def time_report(browser: Any, path: Path) -> tuple[float, list[float]]:
    """Milliseconds until a report has opened, and of each filter."""
    page = browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]})
    page.add_init_script(WATCH_OPENING)
    page.goto(path.as_uri())
    wait_until(page, "window.openedAfter")
    times = page.evaluate("window.openedAfter"), page.evaluate(TIME_CLICKS)
    page.close()
    return times


if __name__ == "__main__":
    tyro.cli(main)
