"""What comes out of an evaluation, and the files of its output folder: written, and read back."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.confidence import precision_recall, score_of
from mixvpr_jax.evaluation.config import EvaluationConfig
from mixvpr_jax.evaluation.recall import BestPositives, Recalls
from mixvpr_jax.listing import write_array, write_csv
from mixvpr_jax.models.config import ModelConfig
from mixvpr_jax.storage import AnyPath, reaching, write_json
from mixvpr_jax.version import __version__

SUBMISSION = "msls_test_predictions.csv"  # of msls-test alone
SUBMITTED = 25  # neighbours of a query: Mapillary's script looks at 20
DETAILS = "report_data.npz"
OUTPUTS = (
    *("results.json", "predictions.csv", "timing.json", DETAILS, "report.html"),
    *("database_descriptors.npy", "query_descriptors.npy"),
    *("database_images.csv", "query_images.csv"),
)
"""What every evaluation writes."""
ALL_OUTPUTS = (*OUTPUTS, SUBMISSION)


@dataclass(frozen=True)
class Evaluation:
    """Descriptors, neighbours, recall; n database images, q queries.

    Attributes:
        data: The images that could be read, and their ground truth.
        database_descriptors: [n, d] float32 or float16.
        query_descriptors: [q, d].
        predictions: [q, m] int32, database indices, nearest first.
        distances: [q, m] float32, L2 between descriptors.
        recalls: None without ground truth.
        best_positives: None without ground truth.
        latency: Stage → `median_ms` and `p95_ms` of a query; empty where it was not measured.
        saliency: Query → where the model looks in it and in its first match, [2, h, w].
        unreadable: What was skipped, a line each.
        num_turned: How many images of the database, and queries, their EXIF orientation turned.
        weights_hash: SHA-256 of the model's weights.
    """

    data: EvaluationSet
    database_descriptors: np.ndarray
    query_descriptors: np.ndarray
    predictions: np.ndarray
    distances: np.ndarray
    recalls: Recalls | None
    best_positives: BestPositives | None
    latency: Mapping[str, Mapping[str, float]]
    saliency: Mapping[int, np.ndarray]
    unreadable: tuple[str, ...]
    num_turned: tuple[int, int]
    weights_hash: str

    @property
    def recall(self) -> Mapping[int, float] | None:
        """K → percent of all queries; None without ground truth."""
        return None if self.recalls is None else self.recalls.at

    def headline(self) -> str:
        """The result in one line."""
        if self.recalls is None:
            return f"no ground truth: neighbours of {len(self.query_descriptors)} queries"
        return ", ".join(f"R@{k}: {percent:.1f}" for k, percent in self.recalls.at.items())


def write_output(
    folder: Path, config: EvaluationConfig, model: ModelConfig, evaluation: Evaluation
) -> None:
    """Writes everything but the report into an empty folder.

    results.json says what was measured and nothing else: the same evaluation gives the same bytes.
    """
    data = evaluation.data
    write_array(folder / "database_descriptors.npy", evaluation.database_descriptors)
    write_array(folder / "query_descriptors.npy", evaluation.query_descriptors)
    for name, images in (("database", data.database), ("query", data.queries)):
        write_csv(folder / f"{name}_images.csv", [("image",), *((image,) for image in images)])
    write_csv(folder / "predictions.csv", _prediction_lines(evaluation))
    if config.dataset == "msls-test":
        write_submission(folder / SUBMISSION, data, evaluation.predictions)
    np.savez_compressed(folder / DETAILS, **_details(evaluation))
    timing = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": jax.devices()[0].device_kind,
        "query_ms": evaluation.latency,
    }
    write_json(folder / "timing.json", timing)
    write_json(folder / "results.json", _results(config, model, evaluation))


def write_submission(path: Path, data: EvaluationSet, predictions: np.ndarray) -> None:
    """Writes a line a query: its key, then those of its nearest images, separated by spaces.

    `evaluate.py` of mapillary_sls reads it with `--prediction`. Keys are the images' names, in
    which a comma would be a sequence there and "#" a comment.
    """
    for image in data.queries + data.database:
        if not image.stem or any(sign.isspace() or sign in ",#" for sign in image.stem):
            raise InputError(
                f"{image}: expected a key without spaces, commas and #, found {image.stem!r}"
            )
    with path.open("w", encoding="utf-8") as file:
        for query, row in zip(data.queries, predictions[:, :SUBMITTED], strict=True):
            keys = [query.stem, *(data.database[index].stem for index in row)]
            file.write(f"{' '.join(keys)}\n")


def _prediction_lines(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    """A line for each query and rank; `correct` is empty without ground truth."""
    yield "query", "rank", "prediction", "descriptor_distance", "correct"
    right = None if evaluation.recalls is None else evaluation.recalls.right.astype(int)
    for row, query in enumerate(evaluation.data.queries):
        found = zip(evaluation.predictions[row], evaluation.distances[row], strict=True)
        for place, (index, distance) in enumerate(found):
            correct = "" if right is None else right[row, place]
            yield query, place + 1, evaluation.data.database[index], f"{distance:.6f}", correct


def _details(evaluation: Evaluation) -> dict[str, Any]:
    """What a report shows besides: docs/evaluate.md says what the arrays are."""
    data, best = evaluation.data, evaluation.best_positives
    arrays: dict[str, Any] = {}
    if data.positives is not None:
        arrays["num_positives"] = np.array([len(found) for found in data.positives], np.int32)
        arrays["positives"] = np.concatenate([np.zeros(0), *data.positives]).astype(np.int32)
    if best is not None:
        arrays["best_index"], arrays["best_distance"] = best.indices, best.distances
        arrays["best_rank"] = best.ranks
    if data.database_utm is not None and data.queries_utm is not None:
        arrays |= {"database_utm": data.database_utm, "queries_utm": data.queries_utm}
    for name, labels in data.conditions.items():
        arrays[f"labels of {name}"] = np.array([str(label) for label in labels])
    if evaluation.saliency:
        levels = np.rint(255 * np.clip(np.nan_to_num(list(evaluation.saliency.values())), 0, 1))
        arrays["saliency"] = levels.astype(np.uint8)
        arrays["saliency_queries"] = np.array(list(evaluation.saliency), np.int32)
    return arrays


def _results(config: EvaluationConfig, model: ModelConfig, evaluation: Evaluation) -> Any:
    """What results.json holds; k of recall become strings there."""
    data, recalls, protocol = evaluation.data, evaluation.recalls, evaluation.data.protocol
    lacking = None if (known := data.positives) is None else sum(not len(some) for some in known)
    return {
        "dataset": protocol.name,
        "protocol": {
            "ground_truth": None if protocol.ground_truth == "none" else protocol.ground_truth,
            "positives": protocol.positives,
            "positive_radius_m": protocol.radius_m,
            "positive_frames": protocol.frames,
            "num_database": protocol.num_database,
            "num_queries": protocol.num_queries,
            "published": list(map(asdict, protocol.published)),
            "neighbours": config.neighbours,
            "engine": config.engine,
            "denominator": "all queries",
        },
        "is_subset": data.is_subset,
        "layout": data.layout,
        "num_database": len(data.database),
        "num_queries": len(data.queries),
        "num_queries_without_positives": lacking,
        "num_queries_in_database": data.num_own_queries,
        "exclude_neighbours": config.exclude_neighbours or 0,
        "num_turned": dict(zip(("database", "queries"), evaluation.num_turned, strict=True)),
        "recall": recalls and recalls.at,
        "recall_interval_95": recalls and recalls.intervals,
        "recall_by_condition": recalls and recalls.by_condition,
        "confidence": recalls
        and precision_recall(
            score_of(evaluation.distances[:, 0]),
            recalls.right[:, 0],
            len(data.queries) - (lacking or 0),
        ).summary(),
        "unreadable": list(evaluation.unreadable),
        "weights": config.weights,
        "weights_sha256": evaluation.weights_hash,
        "model": model.to_dict(),
        "storage": config.storage,
        "mixvpr_jax": __version__,
    }


@dataclass(frozen=True)
class Output:
    """What results.json and predictions.csv hold: q queries, m neighbours each, nearest first."""

    folder: AnyPath
    results: dict[str, Any]
    queries: list[str]
    images: list[list[str]]  # [q][m]
    distances: np.ndarray  # [q, m] float32, between descriptors
    right: np.ndarray | None  # [q, m] bool, the true positives; None without ground truth


def read_output(folder: AnyPath) -> Output:
    """Reads results.json and predictions.csv; raises InputError unless an evaluation wrote them."""
    types = {"dataset": str, "recall": dict | None, "weights": str}
    with reaching(folder), _as_written(folder / "results.json") as path:
        results = _read_json(path)
        if not all(isinstance(results[name], kind) for name, kind in types.items()):
            raise malformed(path)
    with reaching(folder), _as_written(folder / "predictions.csv") as path:
        found: list[list[dict[str, str]]] = []
        for row in _read_csv(path):
            if int(row["rank"]) == 1:
                found.append([])
            found[-1].append(row)
            if int(row["rank"]) != len(found[-1]) or row["query"] != found[-1][0]["query"]:
                raise malformed(path)
        shape = len(found), len(found[0]) if found else 0
        images, distances, marks = (
            [[row[name] for row in rows] for rows in found]
            for name in ("prediction", "descriptor_distance", "correct")
        )
        distances = np.array(distances, np.float32).reshape(shape)
        marks = np.array(marks, str).reshape(shape)
        if not np.isin(marks, ("0", "1", "")).all():
            raise malformed(path)
        right = None if (marks == "").any() else marks == "1"
    queries = [rows[0]["query"] for rows in found]
    return Output(folder, results, queries, images, distances, right)


def read_names(path: AnyPath) -> list[str]:
    """The images of a file; none where there is no such file."""
    with _as_written(path):
        return [row["image"] for row in _read_csv(path)] if path.exists() else []


def read_timing(path: AnyPath) -> dict[str, Any]:
    """What timing.json holds; nothing where there is no such file."""
    with _as_written(path):
        timing = _read_json(path) if path.exists() else {}
        times = {
            stage: {name: float(taken[name]) for name in ("median_ms", "p95_ms")}
            for stage, taken in dict(**timing.get("query_ms", {})).items()
        }
        return timing | {"query_ms": times}


def model_name(weights: str) -> str:
    """What a model goes by: its folder, or the run that a folder called `model` is of."""
    path = Path(weights)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def malformed(path: AnyPath) -> InputError:
    """What to raise for a file that an evaluation did not write like this."""
    return InputError(
        f"{path}: expected what mixvpr eval writes, found something else; evaluate again"
    )


@contextmanager
def _as_written(path: AnyPath) -> Iterator[AnyPath]:
    """Raises InputError for a file that is not there, or not as an evaluation writes it."""
    try:
        yield path
    except NotADirectoryError:
        raise InputError(
            f"{path.parent}: expected the output folder of an evaluation, found a file"
        ) from None
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected the results of an evaluation, found no such file"
        ) from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, csv.Error):
        raise malformed(path) from None


def _read_json(path: AnyPath) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    return dict(**json.loads(text, parse_constant=_finite, parse_float=_finite))


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):  # also of 1e400
        raise ValueError(text)
    return number


def _read_csv(path: AnyPath) -> Iterator[dict[str, str]]:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return csv.DictReader(io.StringIO(text, newline=""))
