"""Which first matches may be trusted: precision and recall over thresholds on their score.

Each query offers one match, its nearest database photo, and a threshold accepts the matches of at
least that score. As in loop closure (Gálvez-López and Tardós, 2012) and for the single best match
in "Visual Place Recognition: A Tutorial" (Schubert et al., 2023):

- precision is the share of the accepted matches that are right;
- recall is the number of right accepted matches over the number of queries that have a positive,
  while recall@k divides by all queries. A match of a query without positives is never right, so
  accepting it costs precision.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mixvpr_jax.errors import InputError

PERCENTS = (100, 95)
"""The precisions that results.json holds thresholds for."""
TENS = range(10, 101, 10)
"""The recalls that it holds the precision at."""


@dataclass(frozen=True)
class PrecisionRecall:
    """One step for each of s distinct scores, highest first: what a threshold there accepts.

    Attributes:
        scores: [s] float64.
        precision: [s] the share of the accepted matches that are right, 0 to 1.
        recall: [s] right accepted matches over queries with positives; 0 where no query has any.
        num_accepted: [s] int, matches of at least that score.
        num_with_positives: How many queries have a positive at all.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    num_accepted: np.ndarray
    num_with_positives: int

    @property
    def average_precision(self) -> float:
        """The area under the curve: the sum of (R[n] - R[n-1]) P[n], as scikit-learn has it.

        The trapezoidal rule would join the steps by lines, along which no threshold lies, and
        gives too much.
        """
        return float(np.diff(self.recall, prepend=0.0) @ self.precision)

    def precision_at(self, percent: int) -> float | None:
        """In percent, at the highest threshold of that recall or more; None where none is."""
        step = int(np.searchsorted(self.recall, percent / 100))
        return 100 * float(self.precision[step]) if step < len(self.recall) else None

    def threshold_at(self, precision: float) -> Threshold | None:
        """The threshold of the largest recall at that precision, a share such as 0.95, or better.

        Of thresholds of equal recall it is the highest, which is also the most precise. It is
        rounded down to the shortest decimal, of four digits or more, that accepts the same matches.
        None where no threshold reaches that precision, as where no match is right.
        """
        if not 0 < precision <= 1:
            raise InputError(
                f"precision: expected a share above 0 such as 0.95, found {precision:g}"
            )
        recall = np.where(self.precision >= precision, self.recall, 0)
        if not recall.any():
            return None
        step = int(recall.argmax())
        score, *below = self.scores[step : step + 2].tolist()
        return Threshold(
            _rounded_down(score, *below),
            float(self.precision[step]),
            float(self.recall[step]),
            int(self.num_accepted[step]),
        )

    def summary(self) -> dict[str, Any] | None:
        """What results.json holds, in percent (docs/confidence.md); None without positives."""
        if not self.num_with_positives:
            return None
        thresholds = {percent: self.threshold_at(percent / 100) for percent in PERCENTS}
        return {
            "num_queries_with_positives": self.num_with_positives,
            "average_precision": 100 * self.average_precision,
            "precision_at_recall": {str(percent): self.precision_at(percent) for percent in TENS},
            "thresholds": {
                str(percent): at
                and asdict(at) | {"precision": 100 * at.precision, "recall": 100 * at.recall}
                for percent, at in thresholds.items()
            },
        }


@dataclass(frozen=True)
class Threshold:
    """Where matches are accepted, and what that gave on the data that it was chosen on.

    Attributes:
        score: Matches of at least this score are accepted.
        precision: The share of them that were right, 0 to 1.
        recall: Right accepted matches over queries with positives, 0 to 1.
        num_accepted: How many matches were accepted.
    """

    score: float
    precision: float
    recall: float
    num_accepted: int


def score_of(distances: np.ndarray) -> np.ndarray:
    """The cosine similarity 1 - d²/2 of descriptors of length 1 at those L2 distances: float64.

    Distances are first rounded to the six decimals that predictions.csv holds, so that a threshold
    accepts the same matches by the file as by the evaluation that wrote it.
    """
    return 1 - np.round(np.asarray(distances, np.float64), 6) ** 2 / 2


def precision_recall(
    scores: np.ndarray, right: np.ndarray, num_with_positives: int
) -> PrecisionRecall:
    """The curve of q queries' first matches; matches of equal score are accepted together.

    Args:
        scores: [q] finite; a higher one means more confidence.
        right: [q] bool, whether the match is a positive of its query.
        num_with_positives: How many queries have a positive at all.

    Raises:
        InputError: Shapes differ, a score is not finite, `right` holds something else than True,
            False, 1 and 0, or more matches are right than can be.
    """
    scores, given = np.asarray(scores, np.float64), np.ravel(right).tolist()
    if strange := [one for one in given if one not in (0, 1)]:  # "0" and NaN would count as right
        raise InputError(f"right: expected True or False, found {strange[0]!r:.40}")
    right = np.asarray(right, bool)
    if scores.ndim != 1 or scores.shape != right.shape:
        raise InputError(
            f"right: expected one value for each score, found shapes {scores.shape} of the scores "
            f"and {right.shape}"
        )
    if not np.isfinite(scores).all():
        raise InputError(
            f"scores: expected finite numbers, found {scores[~np.isfinite(scores)][0]}"
        )
    if not int(right.sum()) <= num_with_positives <= len(right):
        raise InputError(
            f"num_with_positives: expected from {right.sum()}, the right matches, to {len(right)}, "
            f"the queries, found {num_with_positives}"
        )
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # the last of each run of equal scores
    num_accepted, num_right = last + 1, np.cumsum(right[order])[last]
    recall = num_right / max(num_with_positives, 1)
    precision = num_right / num_accepted
    return PrecisionRecall(scores[last], precision, recall, num_accepted, num_with_positives)


def threshold_at(
    precision: float, scores: np.ndarray, right: np.ndarray, num_with_positives: int
) -> Threshold | None:
    """`PrecisionRecall.threshold_at` on the curve of these matches; see `precision_recall`."""
    return precision_recall(scores, right, num_with_positives).threshold_at(precision)


def _rounded_down(score: float, below: float = -math.inf) -> float:
    """The shortest decimal, of four digits or more, in the upper half from `below` to `score`.

    There, float32 does not round it to `below`, where scores are float32.
    """
    for digits in range(4, 17):
        shorter = round(score, digits)
        if shorter > score:
            shorter = round(shorter - 10.0**-digits, digits)
        if (score + below) / 2 < shorter <= score:
            return shorter
    return score
