"""What a report shows, read from an evaluation's output folder."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.cache import DAMAGED
from mixvpr_jax.evaluation.comparison import check_comparable
from mixvpr_jax.evaluation.output import (
    DETAILS,
    Output,
    malformed,
    model_name,
    read_names,
    read_output,
    read_timing,
)
from mixvpr_jax.evaluation.recall import hits_by_rank, recall_of
from mixvpr_jax.storage import AnyPath, as_path, reaching


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a model found; q queries, any number k of neighbours.

    Attributes:
        title: The headline, such as "resnet50_4096 on city"; of another run its model's name.
        predictions: [q, k] int, indices into the report's `database_paths`, nearest first.
        distances: [q, k] float, between descriptors.
        right: [q, k] bool, which of them are true positives; None without ground truth.
        recall: [[k, recall@k in percent]]; None without ground truth.
    """

    title: str
    predictions: np.ndarray
    distances: np.ndarray
    right: np.ndarray | None = None
    recall: list[tuple[int, float]] | None = None


@dataclass(frozen=True, kw_only=True)
class ReportData(Run):
    """One evaluation, as the report shows it; n database photos, q queries.

    Attributes:
        facts: A small table in its order: model, images, ground truth, …, date.
        database_paths: The n database photos.
        query_paths: The q query photos.
        figures: What the page shows of the whole evaluation: see `figures_of`.
        positives: Per query, the database indices of its true positives; None where not known.
        labels: A condition → the label of each query.
        database_utm: [n, 2] east and north in metres; NaN where not known.
        query_utm: [q, 2] likewise.
        best_positive: Of each query the nearest true positive over the whole database:
            database index [q] (-1 without any), distance [q], rank [q] (from 1).
        saliency: Query → maps [h, w] uint8 of the query and of its first neighbour.
        other: Another run over the same photos, to compare with.
    """

    facts: Mapping[str, str]
    database_paths: Sequence[AnyPath]
    query_paths: Sequence[AnyPath]
    figures: Mapping[str, Any] = field(default_factory=lambda: figures_of({}, {}))
    positives: Sequence[np.ndarray] | None = None
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    database_utm: np.ndarray | None = None
    query_utm: np.ndarray | None = None
    best_positive: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    saliency: Mapping[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    other: Run | None = None


def read_report_data(folder: AnyPath, compare: AnyPath | None = None) -> ReportData:
    """Reads an output folder, and another one to compare it with.

    Folders of earlier versions give what they hold.

    Raises:
        InputError: A folder holds no results or broken ones, or the runs are not comparable.
    """
    output = read_output(folder)
    with reaching(folder):
        queries = read_names(folder / "query_images.csv") or output.queries
        database = read_names(folder / "database_images.csv") or sorted(
            {name for row in output.images for name in row}
        )
        timing = read_timing(folder / "timing.json")
    if queries != output.queries:
        raise malformed(folder / "predictions.csv")
    own = _run_of(output, range(len(queries)), database)
    try:
        data = ReportData(
            **vars(own) | {"title": f"{own.title} on {output.results['dataset']}"},
            facts=dict(_facts(output.results, timing)),
            database_paths=[as_path(name) for name in database],
            query_paths=[as_path(name) for name in queries],
            figures=figures_of(output.results, timing),
            **_read_details(folder / DETAILS, len(database), len(queries)),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise malformed(folder / "results.json") from None
    without = [row for row, found in enumerate(data.positives or ()) if not len(found)]
    if data.right is not None and data.right[without].any():
        raise malformed(folder / DETAILS)
    if compare is None:
        return data
    other, results = read_output(compare), output.results
    left_out = results.get("exclude_neighbours", 0), results.get("num_queries_in_database", 0)
    unreadable = results.get("unreadable") or ()
    check_comparable(other, results["dataset"], queries, database, *left_out, unreadable)
    return replace(data, other=_other_run(other, queries, database, data))


def _run_of(output: Output, rows: Sequence[int], database: Sequence[str]) -> Run:
    """The run, as far as these rows of its queries go, by indices into a database."""
    place, distances = {name: at for at, name in enumerate(database)}, output.distances[rows]
    try:
        recall = _by_k(output.results["recall"])
        found = [[place[name] for name in output.images[row]] for row in rows]
    except (KeyError, TypeError, ValueError):
        raise malformed(output.folder / "results.json") from None
    return Run(
        title=model_name(output.results["weights"]),
        predictions=np.array(found, np.int32).reshape(distances.shape),
        distances=distances,
        right=None if output.right is None else output.right[rows],
        recall=recall,
    )


def _other_run(
    other: Output, queries: Sequence[str], database: Sequence[str], data: ReportData
) -> Run:
    """The other run, right by the positives of this one where they are known."""
    row_of = {name: row for row, name in enumerate(other.queries)}
    if absent := next((name for name in queries if name not in row_of), None):
        raise InputError(
            f"{other.folder / 'predictions.csv'}: expected all queries of {data.title}, found no "
            f"{absent}, which could not be read there; evaluate again"
        )
    run = _run_of(other, [row_of[name] for name in queries], database)
    if data.positives is None:
        return run
    right = hits_by_rank(run.predictions, data.positives)
    own = run.recall or [(k, _) for k, _ in data.recall or () if k <= right.shape[1]]
    return replace(run, right=right, recall=_by_k(recall_of(right, [k for k, _ in own])))


def figures_of(results: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    """What results.json and timing.json say of the whole evaluation, as the page takes it."""
    intervals = results.get("recall_interval_95") or {}
    published = results.get("protocol", {}).get("published", ())
    return {
        "intervals": [[int(k), float(low), float(high)] for k, (low, high) in intervals.items()],
        "published": [
            [row["method"], _by_k(row["recall"]) or [], row["source"]] for row in published
        ],
        "is_subset": bool(results.get("is_subset")),
        "conditions": [
            [
                name,
                [
                    [label, int(row["num_queries"]), _by_k(row["recall"]) or []]
                    for label, row in rows.items()
                ],
            ]
            for name, rows in (results.get("recall_by_condition") or {}).items()
        ],
        "latency": [
            [stage, *(round(float(taken[name]), 4) for name in ("median_ms", "p95_ms"))]
            for stage, taken in timing.get("query_ms", {}).items()
        ],
        "device": str(timing.get("device", "")),
    }


def _facts(results: Mapping[str, Any], timing: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    protocol, model = results["protocol"], results.get("model", {})
    yield "model", results["weights"]
    counts = results["num_database"], results["num_queries"]
    yield "images", f"{counts[0]:,} in the database, {counts[1]:,} queries"
    if protocol.get("num_database") and protocol.get("num_queries"):
        yield "protocol's", f"{protocol['num_database']:,} and {protocol['num_queries']:,}"
    yield "ground truth", protocol.get("ground_truth") or "none"
    if results["recall"] is not None:
        yield "positives", f"{protocol['positives']}; all queries counted"
    if "layout" in results:
        yield "layout", results["layout"]
    if "image_size" in model:
        bicubic = ", bicubic" if model.get("interpolation") == "bicubic" else ""
        yield "image size", "{} × {}".format(*model["image_size"]) + bicubic
    if protocol.get("neighbours", "exact, L2") != "exact, L2":
        yield "neighbours", protocol["neighbours"]
    if "date" in timing:
        yield "date", timing["date"]
    if unreadable := results.get("unreadable"):
        yield "unreadable", f"{len(unreadable):,} images left out"
    if own := results.get("num_queries_in_database"):
        beside = results.get("exclude_neighbours")
        frames = f" and {beside:,} frames before and after it" if beside else ""
        yield (
            "left out",
            f"{own:,} queries are files of the database: each{frames} is no neighbour of its own",
        )
    if turned := sum(results.get("num_turned", {}).values()):
        yield "turned", f"{turned:,} images, upright by their EXIF orientation"


def _by_k(recall: Mapping[Any, float] | None) -> list[tuple[int, float]] | None:
    return None if recall is None else [(int(k), float(value)) for k, value in recall.items()]


def _read_details(path: AnyPath, num_database: int, num_queries: int) -> dict[str, Any]:
    """The fields of `ReportData` that report_data.npz holds."""
    try:
        with reaching(path):
            content = io.BytesIO(path.read_bytes())
        with np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _fields_of(arrays, num_database, num_queries)
    except FileNotFoundError:
        return {}
    except (*DAMAGED, OSError, MemoryError):
        raise malformed(path) from None


def _fields_of(
    arrays: Mapping[str, np.ndarray], num_database: int, num_queries: int
) -> dict[str, Any]:
    def known(name: str, *shape: int) -> np.ndarray:
        if arrays[name].shape != shape:
            raise ValueError(name)
        return arrays[name]

    fields: dict[str, Any] = {}
    if "positives" in arrays:
        counts = known("num_positives", num_queries)
        positives = known("positives", int(counts.sum()))
        _check_indices(positives, 0, num_database)
        fields["positives"] = np.split(positives, np.cumsum(counts)[:-1]) if num_queries else []
    if "database_utm" in arrays:
        fields["database_utm"] = known("database_utm", num_database, 2)
        fields["query_utm"] = known("queries_utm", num_queries, 2)
    if "best_index" in arrays:
        best = known("best_index", num_queries)
        _check_indices(best, -1, num_database)
        fields["best_positive"] = (
            best, known("best_distance", num_queries), known("best_rank", num_queries)
        )  # fmt: skip
    fields["labels"] = {
        name.removeprefix("labels of "): known(name, num_queries).tolist()
        for name in arrays
        if name.startswith("labels of ")
    }
    if "saliency" in arrays:
        queries, maps = arrays["saliency_queries"], arrays["saliency"]
        _check_indices(queries, 0, num_queries)
        if maps.ndim != 4 or maps.shape[:2] != (len(queries), 2) or maps.dtype != np.uint8:
            raise ValueError("saliency")
        fields["saliency"] = {
            int(q): (pair[0], pair[1]) for q, pair in zip(queries, maps, strict=True)
        }
    return fields


def _check_indices(indices: np.ndarray, least: int, count: int) -> None:
    # A negative index would quietly show another photo.
    if indices.size and not least <= indices.min() <= indices.max() < count:
        raise ValueError("an index out of range")
