"""An evaluation as one JSON value: numbers in columns, each photo once.

With m neighbours shown of k; lists [q, m] are flat, row by row; null is what is not known:

    title, facts [[name, value]], is_subset, total_queries, k, m
    recall, intervals, curve, published, conditions, latency      of the whole evaluation
    labels      [{name, values [label], of [q] indices into values}]
    pictures    {mime, folders [str], folder [index], file [name], name [readable, "" for file],
                width, height, chars [length of its text], blocks [its first picture, each]}
    database    {count, shown [database index], picture [index into pictures]}
    queries     {picture [q], near [q, m] database indices, distance [q, m], metres [q, m],
                positives [q] their number, first [q] rank of the first right one of k or 0,
                right [q, m] a string of "0" and "1"}
    best        the nearest true positives: {index [q], distance [q], rank [q], metres [q]}
    map         {origin [east, north] metres, database [[east], [north]] decimetres, queries}
    saliency    {query: [h, w, base64 of its cells' bytes, base64 of its first match's]}
    other       {title, recall, curve, m, near [q, m], metres [q, m], right [q, m]}
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixvpr_jax.evaluation.report.data import OtherRun, ReportData
from mixvpr_jax.evaluation.report.names import readable_name
from mixvpr_jax.evaluation.report.shown import Shown
from mixvpr_jax.evaluation.report.thumbnails import MIME, Thumbnail
from mixvpr_jax.storage import AnyPath


def columns_of(
    data: ReportData, right: np.ndarray | None, neighbours: int, shown: Shown
) -> dict[str, Any]:
    """The JSON value of a page, but for `total_queries` and `pictures`.

    Args:
        data: The evaluation.
        right: [q, k] which predictions are true positives; None without ground truth.
        neighbours: How many of the k neighbours are shown.
        shown: The page's photos.
    """
    near = np.asarray(data.predictions)[:, :neighbours]
    return {
        "title": data.title,
        "facts": [[str(name), str(value)] for name, value in data.facts.items()],
        "is_subset": data.is_subset,
        "k": np.shape(data.predictions)[1],
        "m": near.shape[1],
        **_figures(data),
        "labels": [_labels(name, labels) for name, labels in data.labels.items()],
        "database": {
            "count": len(data.database_paths),
            "shown": list(shown.database),
            "picture": list(shown.database.values()),
        },
        "queries": {
            "picture": shown.queries,
            "near": near.ravel().tolist(),
            "distance": _numbers(np.asarray(data.distances)[:, :neighbours], 4),
            "metres": _metres(data, near),
            **_truth(data, right, neighbours),
        },
        "best": _best(data),
        "map": _map(data),
        "saliency": {str(query): _saliency(*maps) for query, maps in data.saliency.items()},
        "other": data.other and _other(data, data.other, neighbours),
    }


def picture_columns(
    paths: Sequence[AnyPath], thumbnails: Sequence[Thumbnail], texts: Sequence[str]
) -> dict[str, Any]:
    """Names and sizes of the photos; `texts` are the thumbnails as they stand in the page."""
    folders: dict[str, int] = {}
    folder = [folders.setdefault(str(path.parent), len(folders)) for path in paths]
    readable = [readable_name(path) for path in paths]
    return {
        "mime": MIME,
        "folders": list(folders),
        "folder": folder,
        "file": [path.name for path in paths],
        "name": ["" if n == path.name else n for n, path in zip(readable, paths, strict=True)],
        "width": [one.width for one in thumbnails],
        "height": [one.height for one in thumbnails],
        "chars": [len(text) for text in texts],
    }


def _figures(data: ReportData) -> dict[str, Any]:
    intervals = [[int(k), float(low), float(high)] for k, (low, high) in data.intervals.items()]
    return {
        "recall": _by_k(data.recall),
        "intervals": intervals,
        "curve": _numbers(data.curve, 3),
        "published": [[name, _by_k(recall), source] for name, recall, source in data.published],
        "conditions": [
            [name, [[label, int(count), _by_k(recall)] for label, (count, recall) in rows.items()]]
            for name, rows in data.conditions.items()
        ],
        "latency": [[name, *_numbers(times, 4)] for name, times in (data.latency or {}).items()],
    }


def _by_k(recall: Mapping[int, float] | None) -> list[list[float]] | None:
    return None if recall is None else [[int(k), float(r)] for k, r in recall.items()]


def _labels(name: str, labels: Sequence[str]) -> dict[str, Any]:
    places: dict[str, int] = {}
    of = [places.setdefault(str(label), len(places)) for label in labels]
    return {"name": name, "values": list(places), "of": of}


def _truth(data: ReportData, right: np.ndarray | None, neighbours: int) -> dict[str, Any]:
    if data.positives is None or right is None:
        return {"positives": None, "first": None, "right": None}
    found = right.any(1)
    first = np.zeros(len(right), np.int64)
    first[found] = right[found].argmax(1) + 1
    return {
        "positives": [len(positives) for positives in data.positives],
        "first": first.tolist(),
        "right": _bits(right[:, :neighbours]),
    }


def _bits(array: np.ndarray) -> str:
    return np.where(array.ravel(), b"1", b"0").tobytes().decode("ascii")


def _best(data: ReportData) -> dict[str, Any] | None:
    if data.best_positive is None:
        return None
    index, distance, rank = (np.asarray(part) for part in data.best_positive)
    return {
        "index": index.tolist(),
        "distance": _numbers(distance, 4),
        "rank": rank.tolist(),
        "metres": _metres(data, np.maximum(index, 0)[:, None]),
    }


def _other(data: ReportData, other: OtherRun, neighbours: int) -> dict[str, Any]:
    near = np.asarray(other.predictions)[:, :neighbours]
    right = None if other.right is None else np.asarray(other.right)
    curve = [] if right is None else 100 * np.logical_or.accumulate(right, axis=1).mean(0)
    return {
        "title": other.title,
        "recall": _by_k(other.recall),
        "curve": _numbers(curve, 3),
        "m": near.shape[1],
        "near": near.ravel().tolist(),
        "metres": _metres(data, near),
        "right": None if right is None else _bits(right[:, :neighbours]),
    }


def _metres(data: ReportData, near: np.ndarray) -> list[float | None] | None:
    """From each query to its [q, m] database photos, flat; None without coordinates."""
    if data.database_utm is None or data.query_utm is None or not len(data.database_utm):
        return None
    apart = data.database_utm[near] - data.query_utm[:, None]
    return _numbers(np.hypot(apart[..., 0], apart[..., 1]), 1)


def _map(data: ReportData) -> dict[str, Any] | None:
    if data.database_utm is None or data.query_utm is None:
        return None
    everything = np.concatenate([data.database_utm, data.query_utm])
    known = everything[np.isfinite(everything).all(1)]
    if not len(known):
        return None
    origin = np.floor(known.min(0))
    return {
        "origin": origin.tolist(),
        "database": [_decimetres(axis) for axis in (data.database_utm - origin).T],
        "queries": [_decimetres(axis) for axis in (data.query_utm - origin).T],
    }


def _decimetres(metres: np.ndarray) -> list[int | None]:
    return [None if value is None else int(value) for value in _numbers(10 * metres, 0)]


def _saliency(query: np.ndarray, match: np.ndarray) -> list[Any]:
    return [*query.shape, *(_cells(one) for one in (query, match))]


def _cells(values: np.ndarray) -> str:
    levels = np.rint(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode("ascii")


def _numbers(values: Any, digits: int) -> list[float | None]:
    """Flat and rounded. JSON knows no NaN, and a browser refuses the whole value for one."""
    listed = np.round(np.asarray(values, np.float64).ravel(), digits).tolist()
    return [value if math.isfinite(value) else None for value in listed]
