"""The page: markup, style and scripts of the folder `page/`, data and pictures, in one file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from mixvpr_jax.errors import InputError
from mixvpr_jax.report.columns import columns_of, picture_columns, shown_photos
from mixvpr_jax.report.reader import ReportData, read_report_data
from mixvpr_jax.report.thumbnails import MIME, Thumbnail, make_thumbnails
from mixvpr_jax.storage import AnyPath, as_path, atomic_write

PAGE = Path(__file__).with_name("page")
SCRIPTS = ("data", "view", "list", "photos", "figures", "map", "main")
"""Modules, in this order: each finds the values that it needs at once."""


def write_report(folder: AnyPath, compare: AnyPath | None = None) -> None:
    """Writes report.html into an evaluation's output folder, from what is there.

    The file appears whole or not at all: whatever fails, an older report stays as it was. A photo
    that is gone keeps the picture of the earlier report, or leaves a blank, and the page says so.

    Raises:
        InputError: A folder holds no results, broken ones, or the runs are not comparable.
    """
    write_page(folder / "report.html", read_report_data(folder, compare))


def write_page(
    path: AnyPath, data: ReportData, *, neighbours: int = 5, thumbnail_bytes: int = 48_000_000
) -> None:
    """Writes one self-contained HTML file, with a query's first `neighbours`.

    Its pictures take about `thumbnail_bytes`: few photos are large and sharp, many are small; none
    is left out.
    """
    shown = shown_photos(data, neighbours)
    thumbnails = make_thumbnails(shown.paths, thumbnail_bytes * 3 // 4)
    if any(one.problem for one in thumbnails):
        earlier = _read_thumbnails(path)
        thumbnails = [
            earlier.get(str(photo), one) if one.problem else one
            for photo, one in zip(shown.paths, thumbnails, strict=True)
        ]
    page = assemble(columns_of(data, neighbours, shown), shown.paths, thumbnails)
    with atomic_write(path) as temporary:
        temporary.write_bytes(page)


def _read_thumbnails(path: AnyPath) -> dict[str, Thumbnail]:
    """The pictures of an earlier report by their photos' paths; none where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        parts = dict(re.findall(r'<script type="[^"]*" id="([^"]*)">([^<]*)</script>', text))
        pictures = json.loads(parts.pop("report-data"))["pictures"]
        if "chars" in pictures:  # until 2026-11-29: one after the other, in scripts of their own
            whole, ends = "".join(parts.values()), [0, *accumulate(pictures["chars"])]
            pictures["base64"] = [whole[start:end] for start, end in pairwise(ends)]
        columns = (pictures[name] for name in ("folder", "file", "width", "height", "base64"))
        return {
            str(as_path(pictures["folders"][folder]) / file): Thumbnail(
                int(width), int(height), base64.b64decode(text, validate=True)
            )
            for folder, file, width, height, text in zip(*columns, strict=True)
            if text and pictures["mime"] == MIME
        }
    except (OSError, InputError, ValueError, KeyError, TypeError, IndexError):
        return {}


def assemble(
    value: Mapping[str, Any], paths: Sequence[AnyPath], thumbnails: Sequence[Thumbnail]
) -> bytes:
    """The whole file, of what `columns_of` gives, the photos and their pictures."""
    style = _read("page.css")
    script = '"use strict";\n' + "\n".join(map(_bundled, SCRIPTS))
    parts = {
        "STYLE-HASH": _hash(style),
        "SCRIPT-HASH": _hash(script),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": _script_safe_json({**value, "pictures": picture_columns(paths, thumbnails)}),
    }
    return _fill(_read("page.html"), parts).encode("utf-8")


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _bundled(name: str) -> str:
    """A module as a part of one script: all share one scope, where no name is declared twice."""
    text = re.sub(r"^import [^;]*;\n", "", _read(f"{name}.js"), flags=re.MULTILINE)
    return re.sub(r"^export ", "", text, flags=re.MULTILINE)


def _hash(text: str) -> str:
    """Under which the page's policy lets this text run, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """Puts each part in the place of its `{{NAME}}`; what stands in a part stays as it is."""
    pieces = re.split(r"\{\{([A-Z-]+)\}\}", template)
    return "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def _script_safe_json(value: Any) -> str:
    """JSON in ASCII that no HTML parser can take for a tag, a comment or an entity.

    ASCII also carries file names that are not valid UTF-8, which Python holds as lone surrogates.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
