"""The files of an evaluation's output folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mixvpr_jax.datasets.evaluation_set import Protocol
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.config import EvaluationConfig
from mixvpr_jax.evaluation.result import Evaluation
from mixvpr_jax.evaluation.submission import write_submission
from mixvpr_jax.models.config import ModelConfig
from mixvpr_jax.storage import AnyPath, check_writable, is_local, reaching
from mixvpr_jax.version import __version__

SUBMISSION = "msls_test_predictions.csv"  # of msls-test alone
DETAILS = "report_data.npz"
OUTPUTS = (
    "results.json",
    "predictions.csv",
    "database_descriptors.npy",
    "query_descriptors.npy",
    "database_images.csv",
    "query_images.csv",
    "timing.json",
    DETAILS,
    "report.html",
)
"""What every evaluation writes."""

ALL_OUTPUTS = (*OUTPUTS, SUBMISSION)
"""What any evaluation writes."""


def check_output(config: EvaluationConfig) -> None:
    """Raises InputError where results cannot be put into the output folder, or may not be."""
    with reaching(config.output):
        if config.output.exists() and not config.output.is_dir():
            raise InputError(f"{config.output}: expected a folder for the results, found a file")
        present = [name for name in ALL_OUTPUTS if (config.output / name).exists()]
    folders = [name for name in present if (config.output / name).is_dir()]
    if folders:
        raise InputError(f"{config.output / folders[0]}: expected no folder of that name")
    if present and not config.overwrite:
        raise InputError(
            f"{config.output}: expected no earlier results, found {', '.join(present)}; "
            "choose another folder or give --overwrite"
        )
    if not is_local(config.output):
        check_writable(config.output)


def write_output(
    folder: Path,
    config: EvaluationConfig,
    model: ModelConfig,
    evaluation: Evaluation,
) -> None:
    """Writes everything but the report into an empty folder.

    results.json says what was measured and nothing else: the same evaluation gives the same bytes.
    """
    np.save(folder / "database_descriptors.npy", evaluation.database_descriptors)
    np.save(folder / "query_descriptors.npy", evaluation.query_descriptors)
    _write_names(folder / "database_images.csv", evaluation.data.database)
    _write_names(folder / "query_images.csv", evaluation.data.queries)
    _write_predictions(folder / "predictions.csv", evaluation)
    if config.dataset == "msls-test":
        write_submission(folder / SUBMISSION, evaluation.data, evaluation.predictions)
    _write_details(folder / DETAILS, evaluation)
    _write_json(folder / "timing.json", _timing(evaluation))
    _write_json(folder / "results.json", results_of(config, model, evaluation))


def remove_stale(output: AnyPath, folder: Path) -> None:
    """Removes earlier results from `output` that the new ones, in `folder`, will not replace."""
    with reaching(output):
        for name in ALL_OUTPUTS:
            if not (folder / name).exists() and (output / name).exists():
                (output / name).unlink()


def _write_details(path: Path, evaluation: Evaluation) -> None:
    """What a report shows besides: docs/evaluate.md says what the arrays are."""
    data, best, arrays = evaluation.data, evaluation.best_positives, {}
    if data.positives is not None:
        arrays["num_positives"] = np.array([len(found) for found in data.positives], np.int32)
        arrays["positives"] = np.concatenate([np.zeros(0), *data.positives]).astype(np.int32)
    if best is not None:
        arrays |= {
            "best_index": best.indices, "best_distance": best.distances, "best_rank": best.ranks
        }  # fmt: skip
    if data.database_utm is not None and data.queries_utm is not None:
        arrays |= {"database_utm": data.database_utm, "queries_utm": data.queries_utm}
    for name, labels in data.conditions.items():
        arrays[f"labels of {name}"] = np.array([str(label) for label in labels])
    if evaluation.saliency:
        levels = np.rint(255 * np.clip(np.nan_to_num(list(evaluation.saliency.values())), 0, 1))
        arrays["saliency"] = levels.astype(np.uint8)
        arrays["saliency_queries"] = np.array(list(evaluation.saliency), np.int32)
    np.savez_compressed(path, **arrays)


def results_of(
    config: EvaluationConfig, model: ModelConfig, evaluation: Evaluation
) -> dict[str, Any]:
    """What results.json holds, as plain JSON values."""
    data, recalls = evaluation.data, evaluation.recalls
    without = data.positives and sum(len(found) == 0 for found in data.positives)
    return {
        "dataset": data.name,
        "protocol": _protocol(data.protocol, config),
        "is_subset": data.is_subset,
        "layout": data.layout,
        "num_database": len(data.database),
        "num_queries": len(data.queries),
        "num_queries_without_positives": without,
        "num_queries_in_database": data.num_own_queries,
        "exclude_neighbours": config.exclude_neighbours or 0,
        "num_turned": dict(zip(("database", "queries"), evaluation.num_turned, strict=True)),
        "recall": recalls and _by_k(recalls.at),
        "recall_interval_95": recalls and _by_k(recalls.intervals),
        "recall_by_condition": recalls
        and {
            condition: {
                label: {"num_queries": count, "recall": _by_k(recall)}
                for label, (count, recall) in labels.items()
            }
            for condition, labels in recalls.by_condition.items()
        },
        "unreadable": list(evaluation.unreadable),
        "weights": config.weights,
        "weights_sha256": evaluation.weights_hash,
        "model": model.to_dict(),
        "storage": config.storage,
        "mixvpr_jax": __version__,
    }


def _protocol(protocol: Protocol, config: EvaluationConfig) -> dict[str, Any]:
    return {
        "ground_truth": None if protocol.ground_truth == "none" else protocol.ground_truth,
        "positives": protocol.positives,
        "positive_radius_m": protocol.radius_m,
        "positive_frames": protocol.frames,
        "num_database": protocol.num_database,
        "num_queries": protocol.num_queries,
        "published": [
            {"method": row.method, "recall": _by_k(row.recall), "source": row.source}
            for row in protocol.published
        ],
        "neighbours": config.neighbours,
        "denominator": "all queries",
    }


def _timing(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": jax.devices()[0].device_kind,
        "query_ms": {stage: asdict(taken) for stage, taken in evaluation.latency.items()},
    }


def _by_k(values: Any) -> dict[str, Any]:
    return {str(k): value for k, value in values.items()}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write_names(path: Path, images: tuple[AnyPath, ...]) -> None:
    """A line an image, in the order of the descriptors."""
    _write_csv(path, ("image",), ((image,) for image in images))


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    """A line for each query and rank; `correct` is empty without ground truth."""
    header = ("query", "rank", "prediction", "descriptor_distance", "correct")
    right = None if evaluation.recalls is None else evaluation.recalls.right.astype(int)

    def lines() -> Iterator[tuple[object, ...]]:
        for row, query in enumerate(evaluation.data.queries):
            found = zip(evaluation.predictions[row], evaluation.distances[row], strict=True)
            for place, (index, distance) in enumerate(found):
                correct = "" if right is None else right[row, place]
                name = evaluation.data.database[index]
                yield query, place + 1, name, f"{distance:.6f}", correct

    _write_csv(path, header, lines())


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
