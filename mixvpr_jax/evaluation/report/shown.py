"""Which photos a page shows, each of them once, and which predictions are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixvpr_jax.evaluation.report.data import ReportData
from mixvpr_jax.storage import AnyPath, as_path


@dataclass(frozen=True)
class Shown:
    """The photos of a page, in the order in which its list shows them.

    Attributes:
        paths: Each photo once.
        queries: [q] indices into `paths`.
        database: Database index → index into `paths`, of the database photos that are shown.
    """

    paths: list[AnyPath]
    queries: list[int]
    database: dict[int, int]


def right_predictions(data: ReportData) -> np.ndarray | None:
    """[q, k] bool: which predictions are true positives; None without ground truth."""
    if data.positives is None:
        return None
    right = np.zeros(np.shape(data.predictions), bool)
    for row, found in enumerate(data.positives):
        right[row] = np.isin(data.predictions[row], found)
    return right


def shown_photos(data: ReportData, right: np.ndarray | None, neighbours: int) -> Shown:
    """All queries, their first neighbours, and the best positive of those that are wrong at 1.

    Args:
        data: The evaluation, perhaps with another run, whose neighbours count too.
        right: What `right_predictions` gives.
        neighbours: How many of the k neighbours are shown.
    """
    parts = [np.asarray(data.predictions)[:, :neighbours]]
    if data.best_positive is not None and right is not None:
        parts.append(np.where(right[:, :1].any(1), -1, data.best_positive[0])[:, None])
    if data.other is not None:
        parts.append(np.asarray(data.other.predictions)[:, :neighbours])
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
