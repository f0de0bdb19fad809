"""An evaluation as one JSON value: numbers in columns, each photo once.

With m neighbours shown of k; lists [q, m] are flat, row by row; null is what is not known:

    title, facts [[name, value]], is_subset, k, m
    recall, intervals, curve, published, conditions, latency, device      of the whole evaluation
    confidence  as in results.json, with its curve [[score, precision, recall]], and `accepted`,
                a label as in `labels` for each of its thresholds
    labels      [{name, values [label], of [q] indices into values}]
    pictures    {mime, folders [str], folder [index], file [name], name [readable, "" for file],
                width, height, base64 ["" where there is none],
                problems [of a photo that cannot be read]}
    database    {count, shown [database index], picture [index into pictures]}
    queries     {picture [q], near [q, m] database indices, distance [q, m], metres [q, m],
                positives [q] their number, first [q] rank of the first right one of k or 0,
                right [q, m] a string of "0" and "1"}
    best        the nearest true positives: {index [q], distance [q], rank [q], metres [q]}
    map         {database [[east], [north]] metres from the westmost and southmost one, queries}
    saliency    {query: [h, w, base64 of its cells' bytes, base64 of its first match's]}
    other       {title, recall, curve, confidence, m, near [q, m], distance, metres, right}
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixvpr_jax.datasets.names import KEY, NOTE, NUM_FIELDS, TILE, TIME, fields_of, position_of
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.confidence import precision_recall, score_of
from mixvpr_jax.report.reader import ReportData, Run
from mixvpr_jax.report.thumbnails import MIME, Thumbnail
from mixvpr_jax.storage import AnyPath, as_path


@dataclass(frozen=True)
class Shown:
    """The photos of a page, each once, in the order in which its list shows them.

    `queries` [q] holds indices into `paths`, as `database` does by the database index.
    """

    paths: list[AnyPath]
    queries: list[int]
    database: dict[int, int]


def shown_photos(data: ReportData, neighbours: int) -> Shown:
    """All queries, their first neighbours, and the best positive of those that are wrong at 1.

    The neighbours of another run count, too.
    """
    parts = [data.predictions[:, :neighbours]]
    if data.best_positive is not None and data.right is not None:
        parts.append(np.where(data.right[:, :1].any(1), -1, data.best_positive[0])[:, None])
    if data.other is not None:
        parts.append(data.other.predictions[:, :neighbours])
    rows = np.concatenate(parts, axis=1).tolist()
    places: dict[AnyPath, int] = {}
    queries: list[int] = []
    database: dict[int, int] = {}
    for query, row in zip(data.query_paths, rows, strict=True):
        queries.append(places.setdefault(as_path(query), len(places)))
        for index in row:
            if index >= 0 and index not in database:  # -1: a query without positives
                path = as_path(data.database_paths[index])
                database[index] = places.setdefault(path, len(places))
    return Shown(list(places), queries, database)


def columns_of(data: ReportData, neighbours: int, shown: Shown) -> dict[str, Any]:
    """The JSON value of a page, but for `pictures`."""
    own = _found_by(data, data, neighbours)
    near = {name: own.pop(name) for name in ("near", "distance", "metres", "right")}
    if trusted := own["confidence"]:
        trusted["accepted"] = _accepted(data.distances, trusted["thresholds"])
    return {
        **own,
        **data.figures,
        "facts": [[str(name), str(value)] for name, value in data.facts.items()],
        "k": data.predictions.shape[1],
        "labels": [_labels(name, labels) for name, labels in data.labels.items()],
        "database": {
            "count": len(data.database_paths),
            "shown": list(shown.database),
            "picture": list(shown.database.values()),
        },
        "queries": {"picture": shown.queries, **near, **_truth(data)},
        "best": _best(data),
        "map": _map(data),
        "saliency": {str(query): _saliency(maps) for query, maps in data.saliency.items()},
        "other": data.other and _found_by(data, data.other, neighbours),
    }


def picture_columns(paths: Sequence[AnyPath], thumbnails: Sequence[Thumbnail]) -> dict[str, Any]:
    """`pictures`: the photos of a page, and what they are called."""
    folders, folder = _numbered(str(path.parent) for path in paths)
    names = ((path.name, readable_name(path)) for path in paths)
    return {
        "mime": MIME,
        "folders": folders,
        "folder": folder,
        "file": [path.name for path in paths],
        "name": ["" if readable == name else readable for name, readable in names],
        "width": [one.width for one in thumbnails],
        "height": [one.height for one in thumbnails],
        "base64": [base64.b64encode(one.data).decode("ascii") for one in thumbnails],
        "problems": [one.problem for one in thumbnails if one.problem],
    }


def _found_by(data: ReportData, run: Run, neighbours: int) -> dict[str, Any]:
    """What one of the runs of a page found."""
    near, right = run.predictions[:, :neighbours], run.right
    return {
        "title": run.title,
        "recall": run.recall,
        "curve": _curve(right),
        "confidence": _confidence(data, run),
        "m": near.shape[1],
        "near": near.ravel().tolist(),
        "distance": _numbers(run.distances[:, :neighbours], 4),
        "metres": _metres(data, near),
        "right": None if right is None else "".join(np.where(right[:, :neighbours], "1", "0").flat),
    }


def _labels(name: str, labels: Sequence[str]) -> dict[str, Any]:
    values, of = _numbered(map(str, labels))
    return {"name": name, "values": values, "of": of}


def _numbered(texts: Iterable[str]) -> tuple[list[str], list[int]]:
    """Each different text once, and of each the index among these."""
    places: dict[str, int] = {}
    of = [places.setdefault(text, len(places)) for text in texts]
    return list(places), of


def _truth(data: ReportData) -> dict[str, Any]:
    right, known = data.right, data.positives
    if right is None:
        return {"positives": None, "first": None}
    return {
        "positives": None if known is None else [len(positives) for positives in known],
        "first": np.where(right.any(1), right.argmax(1) + 1, 0).tolist(),
    }


def _curve(right: np.ndarray | None) -> list[float | None]:
    """recall@1, recall@2, … in percent."""
    if right is None or not len(right):
        return []
    return _numbers(100 * np.logical_or.accumulate(right, axis=1).mean(0), 3)


def _confidence(data: ReportData, run: Run) -> dict[str, Any] | None:
    """Of a run's first matches; None without ground truth or matches."""
    distances = run.distances[:, :1].ravel()
    if run.right is None or data.positives is None or not np.isfinite(distances).all():
        return None
    count = sum(len(positives) > 0 for positives in data.positives)
    curve = precision_recall(score_of(distances), run.right[:, 0], count)
    if not (summary := curve.summary()):
        return None
    percents = 100 * np.stack([curve.precision, curve.recall], axis=1)
    # Of steps that a picture cannot tell apart, the last.
    shown = np.diff(np.round(2 * percents), axis=0, append=np.inf).any(1)
    steps = np.column_stack([curve.scores, percents])[shown]
    return summary | {"curve": np.round(steps, 4).tolist()}


def _accepted(distances: np.ndarray, thresholds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Which first matches each threshold accepts: labels, by which the page lists queries."""
    scores = score_of(distances[:, 0])
    return [
        _labels(f"at {percent} %", np.where(scores >= at["score"], "accepted", "rejected").tolist())
        for percent, at in thresholds.items()
        if at
    ]


def _best(data: ReportData) -> dict[str, Any] | None:
    if data.best_positive is None:
        return None
    index, distance, rank = data.best_positive
    return {
        "index": index.tolist(),
        "distance": _numbers(distance, 4),
        "rank": rank.tolist(),
        "metres": _metres(data, np.maximum(index, 0)[:, None]),
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
        "database": [_numbers(axis, 1) for axis in (data.database_utm - origin).T],
        "queries": [_numbers(axis, 1) for axis in (data.query_utm - origin).T],
    }


def _saliency(maps: Sequence[np.ndarray]) -> list[Any]:
    cells = (base64.b64encode(levels.tobytes()).decode("ascii") for levels in maps)
    return [*maps[0].shape, *cells]


def _numbers(values: Any, digits: int) -> list[float | None]:
    """Flat and rounded. JSON knows no NaN, and a browser refuses the whole value for one."""
    listed = np.round(np.asarray(values, np.float64).ravel(), digits).tolist()
    return [value if math.isfinite(value) else None for value in listed]


def readable_name(path: AnyPath) -> str:
    """The part of a file name that tells a person something.

    VPR-datasets-downloader's names begin with coordinates that all look alike: of these the
    panorama, tile, time and note are kept, or the UTM position where none of them is given. Other
    names stay as they are.
    """
    with suppress(InputError):
        east, north = position_of(path)
        if path.name.startswith("@"):
            fields = [*fields_of(path), *[""] * NUM_FIELDS]
            told = [fields[place] for place in (KEY, TILE, TIME, NOTE) if fields[place]]
            return " · ".join(told) or f"{east:.0f} E {north:.0f} N"
    return path.name
