"""Differences from the official implementation: each held to its limit, and written to a page.

`make parity` runs the tests that measure them, and writes the figures into docs/parity.md.
"""

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "parity.md"


@pytest.fixture
def parity(record_property):
    """Asserts that a difference, of a row of docs/parity.md, is within its limit."""

    def hold(row, difference, limit):
        record_property(f"parity: {row}", f"{difference} {limit}")
        assert difference <= limit, row

    return hold


def measured(report):
    """The largest difference and the limit of each row, from a report in JUnit's XML."""
    rows = defaultdict(lambda: (0.0, 0.0))
    for found in ElementTree.parse(report).iter("property"):
        if found.attrib["name"].startswith("parity: "):
            largest, widest = rows[row := found.attrib["name"].removeprefix("parity: ")]
            difference, limit = map(float, found.attrib["value"].split())
            rows[row] = max(largest, difference), max(widest, limit)
    return rows


def table(page, rows):
    """The page with the figures of its rows filled in."""
    lines, known = [], dict(rows)
    for line in page.splitlines():
        name = line.strip("|").split("|")[0].strip()
        if name in known:
            difference, limit = known.pop(name)
            line = f"| {name} | {difference:.1g} | {limit:g} |"
        lines.append(line)
    assert not known, f"{PAGE.name} lacks rows: {sorted(known)}"
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(table(PAGE.read_text(), measured(sys.argv[1])))
