"""A small evaluation of photos that are drawn, its page, and what the page holds."""

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mixvpr_jax.evaluation.recall import hits_by_rank
from mixvpr_jax.report.page import write_page
from mixvpr_jax.report.reader import ReportData


def photo_at(path: Path, shade: int = 90, size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 120, 40)).save(path, "JPEG", **options)
    return path


def report_data(folder: Path, **changes: Any) -> ReportData:
    """Three queries on four database photos; right at 1, right at 2, without a positive."""
    parts: dict[str, Any] = {
        "title": "nano on city",
        "facts": {"model": "nano", "dataset": "city", "protocol": "25 m"},
        "recall": [(1, 33.3), (5, 66.7), (10, 66.7), (20, 66.7)],
        "database_paths": [photo_at(folder / f"database/{i}.jpg", 40 * i) for i in range(4)],
        "query_paths": [photo_at(folder / f"queries/{i}.jpg", 50 * i) for i in range(3)],
        "predictions": np.array([[2, 0, 1], [2, 3, 0], [1, 2, 3]]),
        "distances": np.array(
            [[0.25, 0.5, 1.0], [0.125, 0.75, 1.5], [0.1, 0.2, 0.3]], dtype=np.float32
        ),
        "positives": [np.array([2]), np.array([3, 1]), np.array([], dtype=np.int64)],
    }
    parts |= changes
    if parts["positives"] is not None:
        parts["right"] = hits_by_rank(parts["predictions"], parts["positives"])
    return ReportData(**parts)


class Page(HTMLParser):
    """Tags of a page with their attributes, and what stands in its scripts and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open and self.tags[-1][0] in ("script", "style"):
            self.texts[self._open] = self.texts.get(self._open, "") + data


class Report:
    """A page's value, and what it says about queries, matches and pictures."""

    def __init__(self, path: Path) -> None:
        self.page = Page(path.read_text(encoding="utf-8"))
        self.value = json.loads(self.page.texts["report-data"])

    def paths(self) -> list[str]:
        pictures = self.value["pictures"]
        folders = [pictures["folders"][folder] for folder in pictures["folder"]]
        return [f"{folder}/{file}" for folder, file in zip(folders, pictures["file"], strict=True)]

    def path_of_query(self, query: int) -> str:
        return self.paths()[self.value["queries"]["picture"][query]]

    def path_of_database(self, index: int) -> str:
        shown = self.value["database"]
        return self.paths()[shown["picture"][shown["shown"].index(index)]]

    def pictures(self) -> list[Image.Image]:
        texts = self.value["pictures"]["base64"]
        return [Image.open(io.BytesIO(base64.b64decode(text))) for text in texts]


def written(path: Path, data: ReportData, **options: Any) -> Report:
    write_page(path, data, **options)
    return Report(path)
