"""An evaluation's output folder, read back: to compare with, or to report on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixvpr_jax.datasets.labelled import FOLDER_MARK, LABELS
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath, reaching

_FIELDS = {"dataset": str, "recall": dict | None, "weights": str}


@dataclass(frozen=True)
class Neighbours:
    """What predictions.csv holds: q queries, m neighbours each.

    Attributes:
        queries: The q images, in the file's order.
        images: [q][m] database images, nearest first.
        distances: [q, m] float32, between descriptors.
        right: [q, m] bool, which are true positives; None without ground truth.
    """

    queries: list[str]
    images: list[list[str]]
    distances: np.ndarray
    right: np.ndarray | None


@dataclass(frozen=True)
class Output:
    """The results and the neighbours of an evaluation."""

    folder: AnyPath
    results: dict[str, Any]
    neighbours: Neighbours


def read_output(folder: AnyPath) -> Output:
    """Reads results.json and predictions.csv.

    Raises:
        InputError: There are none, or an evaluation did not write them like this.
    """
    with reaching(folder):
        results = _read_results(folder / "results.json")
        return Output(folder, results, _read_neighbours(folder / "predictions.csv"))


def malformed(path: AnyPath) -> InputError:
    """What to raise for a file that an evaluation did not write like this."""
    return InputError(f"{path}: expected what eval.py writes, found something else; evaluate again")


def _read_results(path: AnyPath) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(results[name], kind) for name, kind in _FIELDS.items()):
            return results
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path}: expected the results of an evaluation, found no such file"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise malformed(path)


def _read_neighbours(path: AnyPath) -> Neighbours:
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        queries: list[str] = []
        rows: list[list[dict[str, str]]] = []
        for row in csv.DictReader(io.StringIO(text, newline="")):
            if int(row["rank"]) == 1:
                queries.append(row["query"])
                rows.append([])
            if row["query"] != queries[-1] or int(row["rank"]) != len(rows[-1]) + 1:
                raise malformed(path)
            rows[-1].append(row)
        shape = len(rows), len(rows[0]) if rows else 0
        distances = [[float(row["descriptor_distance"]) for row in found] for found in rows]
        flags = [[row["correct"] for row in found] for found in rows]
        if set().union(*flags) - {"0", "1"} not in (set(), {""}):
            raise malformed(path)
        right = None if any("" in found for found in flags) else np.array(flags, str) == "1"
        return Neighbours(
            queries,
            [[row["prediction"] for row in found] for found in rows],
            np.array(distances, np.float32).reshape(shape),
            None if right is None else right.reshape(shape),
        )
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected the neighbours of an evaluation, found no such file"
        ) from None
    except (ValueError, KeyError, TypeError, IndexError, csv.Error):  # cut, or another file
        raise malformed(path) from None


def read_names(path: AnyPath) -> list[str]:
    """The images of a file; none where there is no such file."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        return [row["image"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    except FileNotFoundError:
        return []
    except (KeyError, csv.Error):
        raise malformed(path) from None


def read_timing(path: AnyPath) -> dict[str, Any]:
    """What timing.json holds; nothing where there is no such file."""
    try:
        timing = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise malformed(path) from None
    if not isinstance(timing, dict):
        raise malformed(path)
    return timing


def check_comparable(
    other: Output, dataset: str, queries: Sequence[object], database: Sequence[object]
) -> None:
    """Checks that another evaluation found neighbours for the same queries and database.

    Args:
        other: The other evaluation.
        dataset: The name of the data set that both must share.
        queries: The query images.
        database: The database images.

    Raises:
        InputError: Its data set, queries or database differ.
    """
    if not _is_of(dataset, other.results):
        raise InputError(
            f"{other.folder}: expected results of {dataset} to compare with, "
            f"found some of {other.results['dataset']}"
        )
    path, found = other.folder / "predictions.csv", other.neighbours
    ours, known = list(map(str, queries)), set(map(str, database))
    if strange := next(iter(set(found.queries) - set(ours)), None):
        raise InputError(f"{path}: expected the queries of {dataset} alone, found {strange}")
    if absent := next(iter(sorted(set(ours) - set(found.queries))), None):
        raise InputError(f"{path}: expected every query of {dataset}, found none for {absent}")
    if strange := next((name for row in found.images for name in row if name not in known), None):
        raise InputError(
            f"{path}: expected the images of {dataset} where they lie now, found {strange}"
        )


def _is_of(dataset: str, results: dict[str, Any]) -> bool:
    """By the name, or by the one that a folder called like a benchmark had in earlier versions."""
    if results["dataset"] == dataset:
        return True
    protocol = results.get("protocol")
    truth = protocol.get("ground_truth") if isinstance(protocol, dict) else ""
    return f"{results['dataset']}{FOLDER_MARK}" == dataset and truth in (None, LABELS)
