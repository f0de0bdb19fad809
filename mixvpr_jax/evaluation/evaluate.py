"""One evaluation, from two folders of images to the files of its output folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mixvpr_jax.config import EvaluationConfig, ModelConfig
from mixvpr_jax.data.folders import ImageFolder, read_folder
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.descriptors import Described, compile_encoder, describe_images
from mixvpr_jax.evaluation.recall import positives_within, recall_at_k
from mixvpr_jax.evaluation.report import ReportData, write_report
from mixvpr_jax.evaluation.retrieval import nearest_neighbours
from mixvpr_jax.files import staged
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.preprocess import Preprocess
from mixvpr_jax.pretrained import from_pretrained
from mixvpr_jax.version import __version__

RECALL_VALUES = (1, 5, 10, 20)
OUTPUTS = (
    "results.json",
    "predictions.csv",
    "database_descriptors.npy",
    "query_descriptors.npy",
    "report.html",
)


@dataclass(frozen=True)
class Evaluation:
    """What came out: descriptors, neighbours, recall; n database images, q queries.

    Attributes:
        database: The database images that could be read.
        queries: The queries that could be read.
        database_descriptors: [n, d] float32.
        query_descriptors: [q, d] float32.
        predictions: [q, k] int32, database indices, nearest first.
        distances: [q, k] float32, L2 between descriptors.
        positives: For each query, ascending database indices; None without ground truth.
        recall: k → percent of all queries; None without ground truth.
        unreadable: What was skipped, a line each.
    """

    database: ImageFolder
    queries: ImageFolder
    database_descriptors: np.ndarray
    query_descriptors: np.ndarray
    predictions: np.ndarray
    distances: np.ndarray
    positives: list[np.ndarray] | None
    recall: Mapping[int, float] | None
    unreadable: tuple[str, ...]

    def headline(self) -> str:
        """The result in one line."""
        if self.recall is None:
            return f"no ground truth: neighbours of {len(self.query_descriptors)} queries"
        return ", ".join(f"R@{k}: {percent:.1f}" for k, percent in self.recall.items())


def evaluate_folders(config: EvaluationConfig) -> Evaluation:
    """Describes two folders of images, finds neighbours, counts recall and writes it all.

    Raises:
        InputError: Whatever is wrong with the model, the folders or the output folder. Nothing
            is written then.
    """
    config.check()
    _check_output(config)
    database, queries = _read_folders(config)
    model, preprocess = from_pretrained(config.weights, dtype=config.dtype)
    if model.config.aggregator is None:
        raise InputError(f"{config.weights}: expected a whole model, found a bare trunk")
    # Opened first: better told now than after hours that one may not write there.
    with staged(config.output) as folder:
        described = _describe(config, model, preprocess, database.paths + queries.paths)
        evaluation = _evaluate(config, database, queries, described)
        _write(folder, config, model.config, evaluation)
    return evaluation


def _describe(
    config: EvaluationConfig, model: VPRModel, preprocess: Preprocess, paths: tuple[Path, ...]
) -> Described:
    # disable=None: a bar on terminals alone, so that an error is the one line of a log.
    with tqdm(total=len(paths), unit="image", desc="descriptors", disable=None) as progress:
        return describe_images(
            compile_encoder(model),
            preprocess,
            paths,
            batch_size=config.batch_size,
            skip_unreadable=config.skip_unreadable,
            on_progress=progress.update,
        )


def _check_output(config: EvaluationConfig) -> None:
    if config.output.exists() and not config.output.is_dir():
        raise InputError(f"{config.output}: expected a folder for the results, found a file")
    present = [name for name in OUTPUTS if (config.output / name).exists()]
    folders = [name for name in present if (config.output / name).is_dir()]
    if folders:
        raise InputError(f"{config.output / folders[0]}: expected no folder of that name")
    if present and not config.overwrite:
        raise InputError(
            f"{config.output}: expected no earlier results, found {', '.join(present)}; "
            "choose another folder or give --overwrite"
        )


def _read_folders(config: EvaluationConfig) -> tuple[ImageFolder, ImageFolder]:
    database, queries = read_folder(config.database), read_folder(config.queries)
    if (database.utm is None) != (queries.utm is None):
        with_labels, without = (queries, database) if database.utm is None else (database, queries)
        raise InputError(
            f"expected @utm_east@utm_north@ names in both folders or in none, found them in "
            f"{with_labels.root} and not in {without.root}"
        )
    return database, queries


def _evaluate(
    config: EvaluationConfig, database: ImageFolder, queries: ImageFolder, described: Described
) -> Evaluation:
    boundary = len(database.paths)
    readable = described.readable[:boundary], described.readable[boundary:]
    for folder, some in zip((database, queries), readable, strict=True):
        if not some.any():
            raise InputError(f"{folder.root}: expected at least one readable image, found none")
    database, queries = database.select(readable[0]), queries.select(readable[1])
    split = len(database.paths)
    of_database, of_queries = described.descriptors[:split], described.descriptors[split:]
    predictions, distances = nearest_neighbours(of_queries, of_database, max(RECALL_VALUES))
    positives = recall = None
    if database.utm is not None and queries.utm is not None:
        positives = positives_within(queries.utm, database.utm, config.positive_radius_m)
        recall = recall_at_k(predictions, positives, RECALL_VALUES)
    return Evaluation(
        database,
        queries,
        of_database,
        of_queries,
        predictions,
        distances,
        positives,
        recall,
        described.reasons,
    )


def _write(
    folder: Path, config: EvaluationConfig, model: ModelConfig, evaluation: Evaluation
) -> None:
    results = _results(config, model, evaluation)
    np.save(folder / "database_descriptors.npy", evaluation.database_descriptors)
    np.save(folder / "query_descriptors.npy", evaluation.query_descriptors)
    _write_predictions(folder / "predictions.csv", evaluation)
    write_report(folder / "report.html", _report_data(config, results, evaluation))
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def _results(
    config: EvaluationConfig, model: ModelConfig, evaluation: Evaluation
) -> dict[str, Any]:
    recall, positives = evaluation.recall, evaluation.positives
    return {
        "dataset": _dataset_name(config),
        "protocol": {
            "ground_truth": None if positives is None else "@utm_east@utm_north@ in file names",
            "positive_radius_m": None if positives is None else config.positive_radius_m,
            "neighbours": "exact, L2",
            "denominator": "all queries",
        },
        "num_database": len(evaluation.database.paths),
        "num_queries": len(evaluation.queries.paths),
        "num_queries_without_positives": positives and sum(len(found) == 0 for found in positives),
        "recall": recall and {str(k): percent for k, percent in recall.items()},
        "unreadable": list(evaluation.unreadable),
        "weights": config.weights,
        "model": model.to_dict(),
        "mixvpr_jax": __version__,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _dataset_name(config: EvaluationConfig) -> str:
    """The folder that holds both, where there is one: `city` of city/database and city/queries."""
    database, queries = config.database.resolve(), config.queries.resolve()
    if database.parent == queries.parent:
        return database.parent.name
    return f"{queries.name} in {database.name}"


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    """A line for each query and rank; `correct` is empty without ground truth."""
    header = ("query", "rank", "prediction", "descriptor_distance", "correct")
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row, query in enumerate(evaluation.queries.paths):
            found = zip(evaluation.predictions[row], evaluation.distances[row], strict=True)
            for rank, (index, distance) in enumerate(found, start=1):
                correct = ""
                if evaluation.positives is not None:
                    correct = int(index in evaluation.positives[row])
                name = evaluation.database.paths[index]
                writer.writerow((query, rank, name, f"{distance:.6f}", correct))


def _report_data(
    config: EvaluationConfig, results: Mapping[str, Any], evaluation: Evaluation
) -> ReportData:
    height, width = results["model"]["image_size"]
    radius = f"positives within {config.positive_radius_m:g} m, all queries counted"
    facts = {
        "model": config.weights,
        "database": f"{config.database}: {results['num_database']:,} images",
        "queries": f"{config.queries}: {results['num_queries']:,} images",
        "protocol": "no ground truth" if evaluation.positives is None else radius,
        "image size": f"{height} × {width}",
        "date": results["date"],
    }
    if evaluation.unreadable:
        facts["unreadable"] = f"{len(evaluation.unreadable):,} images skipped"
    return ReportData(
        title=f"{Path(config.weights).name} on {results['dataset']}",
        facts=facts,
        recall=evaluation.recall,
        database_paths=evaluation.database.paths,
        query_paths=evaluation.queries.paths,
        predictions=evaluation.predictions,
        distances=evaluation.distances,
        positives=evaluation.positives,
    )
