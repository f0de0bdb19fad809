"""Evaluations with everything that a report can show, and reports of them."""

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shared import once

from mixvpr_jax.evaluation.recall import hits_by_rank
from mixvpr_jax.report.columns import columns_of, shown_photos
from mixvpr_jax.report.page import assemble, write_page
from mixvpr_jax.report.reader import ReportData, Run, figures_of
from mixvpr_jax.report.thumbnails import FORMAT, Thumbnail

HOSTILE = "<img src=x onerror=alert(1)>&amp;\"' Zürich 日本.jpg"


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """24 queries on 30 photos, with names that are markup, not UTF-8, or have spaces in them."""

    def evaluate(folder: Path) -> ReportData:
        database, queries = [], []
        for kind, paths, count in (("database", database, 30), ("queries", queries, 24)):
            (folder / kind).mkdir()
            for index in range(count):
                name = {3: HOSTILE, 4: os.fsdecode(b"\xff\xfe.jpg")}.get(
                    index, f"{kind} {index}.jpg"
                )
                paths.append(folder / kind / name)
                shade = np.full((48, 64, 3), (8 * index, 90, 120), np.uint8)
                Image.fromarray(shade).save(paths[-1], "JPEG")
        data = evaluation(database, queries, k=8)
        return replace(data, saliency=heat_maps(4))

    return once(tmp_path_factory, "evaluated", evaluate)


@pytest.fixture(scope="session")
def report(evaluated: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, evaluated)
    return path


@pytest.fixture(scope="session")
def comparison(evaluated: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comparison") / "report.html"
    write_page(path, replace(evaluated, other=other_run(evaluated)))
    return path


@pytest.fixture(scope="session")
def ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of ten thousand queries."""

    def write(folder: Path) -> Path:
        assert 30e6 < large_report(folder / "report.html") < 80e6
        return folder / "report.html"

    return once(tmp_path_factory, "ten_thousand", write)


def evaluation(
    database: list[Path], queries: list[Path], k: int = 20, **changes: Any
) -> ReportData:
    """An evaluation with everything that a report can show: photos on a line, 10 m apart.

    Of four queries the first is right, the second right at 3, the third lost, the fourth has no
    positives.
    """
    rng = np.random.default_rng(0)
    n, q = len(database), len(queries)
    database_utm = np.stack([10.0 * np.arange(n), np.zeros(n)], axis=1)
    truth = np.arange(q) * n // q
    query_utm = np.stack([10.0 * truth, np.full(q, 3.0)], axis=1)
    positives = [
        np.array([index]) if i % 4 < 3 else np.array([], int) for i, index in enumerate(truth)
    ]
    # Far from the truth, so that none of them is right by chance.
    predictions = (truth[:, None] + n // 3 + rng.integers(0, n // 3, (q, k))) % n
    predictions[0::4, 0] = truth[0::4]
    predictions[1::4, 2] = truth[1::4]
    ranks = np.select([np.arange(q) % 4 == i for i in range(3)], [1, 3, k + 5], 0)
    recall = {1: 25.0, 5: 50.0, 10: 50.0, 20: 50.0}
    published = [{"method": "MixVPR", "recall": {"1": 24.0, "5": 51.0}, "source": "table 1"}]
    labels = ["day" if i % 2 else "night" for i in range(q)]
    counts = {label: labels.count(label) for label in ("day", "night")}
    results = {
        "recall_interval_95": {k: (value - 2, value + 2) for k, value in recall.items()},
        "protocol": {"published": published},
        "recall_by_condition": {
            "light": {
                label: {"num_queries": count, "recall": recall} for label, count in counts.items()
            }
        },
    }
    taken = {"preprocessing": (3.0, 4.0), "model": (20.0, 25.0), "search": (0.2, 0.3)}
    timing = {
        "query_ms": {
            stage: {"median_ms": median, "p95_ms": p95} for stage, (median, p95) in taken.items()
        },
        "device": "TPU v4",
    }
    parts: dict[str, Any] = {
        "title": "nano on the line",
        "facts": {"model": "nano", "protocol": "25 m"},
        "database_paths": database,
        "query_paths": queries,
        "predictions": predictions,
        "distances": np.sort(rng.uniform(0.2, 1.4, (q, k)), axis=1).astype(np.float32),
        "positives": positives,
        "right": hits_by_rank(predictions, positives),
        "recall": list(recall.items()),
        "figures": figures_of(results, timing),
        "labels": {"light": labels},
        "database_utm": database_utm,
        "query_utm": query_utm,
        "best_positive": (
            np.where(ranks > 0, truth, -1),
            np.where(ranks > 0, 0.9, np.nan),
            ranks,
        ),
    }
    return ReportData(**(parts | changes))


def other_run(data: ReportData, k: int = 5) -> Run:
    """Right at 1 for the first two of four queries, of which this run has only the first."""
    assert data.best_positive is not None
    predictions = np.asarray(data.predictions)[:, -k:].copy()
    right = np.zeros(predictions.shape, bool)
    for first in (0, 1):
        predictions[first::4, 0] = data.best_positive[0][first::4]
        right[first::4, 0] = True
    distances = np.full(predictions.shape, 0.625)
    return Run(
        title="ConvAP",
        recall=[(1, 50.0), (5, 50.0)],
        predictions=predictions,
        distances=distances,
        right=right,
    )


def heat_maps(queries: int, cells: int = 5) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 256, (queries, 2, cells, cells), np.uint8)
    return {query: (pair[0], pair[1]) for query, pair in enumerate(maps)}


def large_report(path: Path, queries: int = 10_000, database: int = 20_000) -> int:
    """Writes a report of many queries, whose pictures are a few that come again and again.

    Returns:
        The file's size.
    """
    data = evaluation(
        [
            Path(f"database/@{500_000 + i}.00@4180000.00@17@T@@@pano{i}@@090@@@@201908@@.jpg")
            for i in range(database)
        ],
        [
            Path(f"queries/@{500_000 + i}.50@4180000.00@17@T@@@seen{i}@@270@@@@202001@@.jpg")
            for i in range(queries)
        ],
    )
    shown = shown_photos(data, 5)
    some = [_noise(seed) for seed in range(16)]
    thumbnails = [some[index % 16] for index in range(len(shown.paths))]
    return path.write_bytes(assemble(columns_of(data, 5, shown), shown.paths, thumbnails))


def _noise(seed: int) -> Thumbnail:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8).astype(np.uint8))
    buffer = io.BytesIO()
    coarse.resize((112, 84)).save(buffer, FORMAT, quality=35)
    return Thumbnail(112, 84, buffer.getvalue())
