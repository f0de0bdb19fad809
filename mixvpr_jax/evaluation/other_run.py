"""Another evaluation of the same images, read back from its output folder to be compared."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.datasets.labelled import FOLDER_MARK, LABELS
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.result import model_name
from mixvpr_jax.storage import AnyPath


@dataclass(frozen=True)
class OtherResults:
    """What another evaluation found for the same queries.

    Attributes:
        title: Its model.
        recall: k → percent; None without ground truth.
        predictions: Query path → paths of its predictions, nearest first.
    """

    title: str
    recall: dict[int, float] | None
    predictions: dict[str, list[str]]


def read_other_run(folder: AnyPath, data: EvaluationSet) -> OtherResults:
    """Reads results.json and predictions.csv of another output folder.

    Args:
        folder: What eval.py wrote.
        data: What is evaluated now: both must be of one dataset, and of the same images.

    Raises:
        InputError: No such files, files that eval.py did not write, or of another dataset.
    """
    results = _read_results(folder / "results.json")
    if not _is_of(data, results):
        raise InputError(
            f"{folder}: expected results of {data.name} to compare with, "
            f"found some of {results['dataset']}"
        )
    predictions = _read_predictions(folder / "predictions.csv")
    _require_known(folder / "predictions.csv", predictions, data)
    recall = results["recall"]
    title = model_name(results["weights"])
    return OtherResults(
        title, recall and {int(k): float(v) for k, v in recall.items()}, predictions
    )


def _is_of(data: EvaluationSet, results: dict[str, Any]) -> bool:
    """By the name, or by the one that a folder called like a benchmark had in earlier versions."""
    if results["dataset"] == data.name:
        return True
    protocol = results.get("protocol")
    truth = protocol.get("ground_truth") if isinstance(protocol, dict) else ""
    return f"{results['dataset']}{FOLDER_MARK}" == data.name and truth in (None, LABELS)


def _read_results(path: AnyPath) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text())
        fields = {"dataset": str, "recall": dict | None, "weights": str}
        if all(isinstance(results[name], kind) for name, kind in fields.items()):
            return results
    except FileNotFoundError:
        raise InputError(f"{path}: expected an evaluation's results, found no such file") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: expected what eval.py writes, found something else")


def _read_predictions(path: AnyPath) -> dict[str, list[str]]:
    predictions: dict[str, list[str]] = {}
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        with io.StringIO(text, newline="") as file:
            for row in csv.DictReader(file):
                predictions.setdefault(row["query"], []).append(row["prediction"])
    except FileNotFoundError:
        raise InputError(f"{path}: expected an evaluation's neighbours, found no file") from None
    except (KeyError, csv.Error):
        raise InputError(f"{path}: expected what eval.py writes, found something else") from None
    return predictions


def _require_known(path: AnyPath, predictions: dict[str, list[str]], data: EvaluationSet) -> None:
    """The same queries, answered by images of the same database."""
    queries, database = set(map(str, data.queries)), set(map(str, data.database))
    if strange := next((name for name in predictions if name not in queries), None):
        raise InputError(f"{path}: expected the queries of {data.name} alone, found {strange}")
    if absent := next((name for name in sorted(queries) if name not in predictions), None):
        raise InputError(f"{path}: expected every query of {data.name}, found none for {absent}")
    found = (name for names in predictions.values() for name in names)
    if strange := next((name for name in found if name not in database), None):
        raise InputError(
            f"{path}: expected the images of {data.name} where they lie now, found {strange}"
        )


def predictions_as_indices(
    other: OtherResults, queries: Sequence[AnyPath], database: Sequence[AnyPath]
) -> np.ndarray:
    """The other evaluation's predictions.

    Args:
        other: What it found.
        queries: The q queries.
        database: The n database images.

    Returns:
        [q, k] int32, indices into `database`.

    Raises:
        InputError: It found an image that is not among them.
    """
    place = {str(path): index for index, path in enumerate(database)}
    rows = [other.predictions[str(query)] for query in queries]
    count = min(map(len, rows))
    try:
        return np.array([[place[name] for name in names[:count]] for names in rows], np.int32)
    except KeyError as error:
        raise InputError(
            f"{other.title}: expected images that can be read now, found {error.args[0]}"
        ) from None
