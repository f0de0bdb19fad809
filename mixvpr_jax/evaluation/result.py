"""What comes out of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.evaluation.latency import Latency


def model_name(weights: str) -> str:
    """What a model goes by: its folder, or the run that a folder called `model` is of."""
    path = Path(weights)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


@dataclass(frozen=True)
class Recalls:
    """Recall where there is ground truth.

    Attributes:
        at: k → percent of all queries.
        intervals: k → its 95 % interval (Wilson's) over queries, in percent.
        curve: [m] percent, recall@1 to recall@m.
        by_condition: Condition → label → number of queries, and k → percent of them.
        right: [q, m] bool, which predictions are right.
    """

    at: Mapping[int, float]
    intervals: Mapping[int, tuple[float, float]]
    curve: np.ndarray
    by_condition: Mapping[str, Mapping[str, tuple[int, Mapping[int, float]]]]
    right: np.ndarray


@dataclass(frozen=True)
class BestPositives:
    """The nearest of its true positives for each of q queries.

    Attributes:
        indices: [q] int32, database indices; -1 where a query has no positive.
        distances: [q] float32, L2 between descriptors.
        ranks: [q] int32, 1 for the nearest of all the database; 0 without a positive.
    """

    indices: np.ndarray
    distances: np.ndarray
    ranks: np.ndarray


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
        latency: What a query takes, by stage; empty where it was not measured.
        saliency: Query → where the model looks in it and in its first match, [h, w] each.
        unreadable: What was skipped, a line each.
        num_turned: How many images of the database, and how many queries, their EXIF orientation
            turned.
        weights_hash: SHA-256 of the model's weights.
    """

    data: EvaluationSet
    database_descriptors: np.ndarray
    query_descriptors: np.ndarray
    predictions: np.ndarray
    distances: np.ndarray
    recalls: Recalls | None = None
    best_positives: BestPositives | None = None
    latency: Mapping[str, Latency] = field(default_factory=dict)
    saliency: Mapping[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    num_turned: tuple[int, int] = (0, 0)
    weights_hash: str = ""

    @property
    def recall(self) -> Mapping[int, float] | None:
        """K → percent of all queries; None without ground truth."""
        return None if self.recalls is None else self.recalls.at

    def headline(self) -> str:
        """The result in one line."""
        if self.recalls is None:
            return f"no ground truth: neighbours of {len(self.query_descriptors)} queries"
        return ", ".join(f"R@{k}: {percent:.1f}" for k, percent in self.recalls.at.items())
