"""What the report shows of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from mixvpr_jax.evaluation.config import EvaluationConfig
from mixvpr_jax.evaluation.other_run import OtherResults, predictions_as_indices
from mixvpr_jax.evaluation.recall import hits_by_rank
from mixvpr_jax.evaluation.report import OtherRun, ReportData
from mixvpr_jax.evaluation.result import Evaluation, model_name
from mixvpr_jax.models.config import ModelConfig


def report_data(
    config: EvaluationConfig,
    model: ModelConfig,
    evaluation: Evaluation,
    other: OtherResults | None,
) -> ReportData:
    """All that is known of an evaluation, and of another one beside it."""
    data, recalls, best = evaluation.data, evaluation.recalls, evaluation.best_positives
    return ReportData(
        title=f"{model_name(config.weights)} on {data.name}",
        facts=dict(_facts(config, model, evaluation)),
        database_paths=data.database,
        query_paths=data.queries,
        predictions=evaluation.predictions,
        distances=evaluation.distances,
        positives=data.positives,
        recall=None if recalls is None else recalls.at,
        intervals={} if recalls is None else recalls.intervals,
        curve=() if recalls is None else recalls.curve.tolist(),
        published=[(row.method, row.recall, row.source) for row in data.protocol.published],
        is_subset=data.is_subset,
        conditions={} if recalls is None else recalls.by_condition,
        labels=data.conditions,
        latency={
            stage: (taken.median_ms, taken.p95_ms) for stage, taken in evaluation.latency.items()
        }
        or None,
        database_utm=data.database_utm,
        query_utm=data.queries_utm,
        best_positive=None if best is None else (best.indices, best.distances, best.ranks),
        saliency=evaluation.saliency,
        other=None if other is None else _other_run(evaluation, other),
    )


def _facts(
    config: EvaluationConfig, model: ModelConfig, evaluation: Evaluation
) -> Iterator[tuple[str, str]]:
    data, protocol = evaluation.data, evaluation.data.protocol
    height, width = model.image_size
    yield "model", config.weights
    yield "images", f"{len(data.database):,} in the database, {len(data.queries):,} queries"
    if protocol.num_database and protocol.num_queries:
        yield "protocol's", f"{protocol.num_database:,} and {protocol.num_queries:,}"
    yield "ground truth", protocol.ground_truth
    if data.positives is not None:
        yield "positives", f"{protocol.positives}; all queries counted"
    yield "layout", data.layout
    bicubic = ", bicubic" if model.interpolation == "bicubic" else ""
    yield "image size", f"{height} × {width}{bicubic}"
    if config.index != "exact":
        yield "neighbours", config.neighbours
    yield "date", datetime.now().astimezone().isoformat(timespec="seconds")
    if evaluation.unreadable:
        yield "unreadable", f"{len(evaluation.unreadable):,} images left out"
    if data.num_own_queries:
        beside = config.exclude_neighbours or 0
        frames = f" and {beside:,} frames before and after it" if beside else ""
        yield (
            "left out",
            f"{data.num_own_queries:,} queries are files of the database: each{frames} is no "
            "neighbour of its own",
        )
    if turned := sum(evaluation.num_turned):
        yield "turned", f"{turned:,} images, upright by their EXIF orientation"


def _other_run(evaluation: Evaluation, other: OtherResults) -> OtherRun:
    data = evaluation.data
    predictions = predictions_as_indices(other, data.queries, data.database)
    right = None if data.positives is None else hits_by_rank(predictions, data.positives)
    return OtherRun(other.title, other.recall, predictions, right)
