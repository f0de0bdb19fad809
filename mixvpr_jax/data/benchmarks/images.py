"""A benchmark as its lists have it, and which of its images are missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixvpr_jax.data.evaluation_set import EvaluationSet
from mixvpr_jax.stores import AnyPath


@dataclass(frozen=True)
class Found:
    """A benchmark as its lists have it, and which of the images are there.

    Attributes:
        whole: With every image listed, missing ones too.
        database_present: [n] bool.
        queries_present: [q] bool.
    """

    whole: EvaluationSet
    database_present: np.ndarray
    queries_present: np.ndarray

    @classmethod
    def complete(cls, whole: EvaluationSet) -> Found:
        """What was listed from the disk: nothing can be missing."""
        return cls(whole, np.ones(len(whole.database), bool), np.ones(len(whole.queries), bool))

    def missing(self) -> list[AnyPath]:
        """The images that are not there, database first."""
        images = (*self.whole.database, *self.whole.queries)
        present = np.concatenate([self.database_present, self.queries_present])
        return [path for path, there in zip(images, present, strict=True) if not there]
