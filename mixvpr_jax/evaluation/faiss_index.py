"""FAISS's indices, for those who want them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mixvpr_jax.errors import InputError

Metric = Literal["l2", "ip"]
ROWS_AT_ONCE = 65536


def build_index(database: np.ndarray, factory: str = "Flat", metric: Metric = "l2") -> Any:
    """An index of FAISS over descriptors, trained on them where it needs training.

    Args:
        database: [n, d] float32 or float16.
        factory: What `faiss.index_factory` takes: Flat, HNSW32, IVF256,Flat, …
        metric: Squared L2 distances, or inner products: of unit vectors they order alike.

    Raises:
        InputError: faiss is not installed, or does not know or cannot train such an index.
    """
    try:
        import faiss
    except ImportError:
        raise InputError("index: FAISS is not installed; pip install 'mixvpr-jax[faiss]'") from None
    kind = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}[metric]
    try:
        index: Any = faiss.index_factory(database.shape[1], factory, kind)
        if not index.is_trained:
            index.train(np.ascontiguousarray(database, np.float32))
        for start in range(0, len(database), ROWS_AT_ONCE):
            rows = database[start : start + ROWS_AT_ONCE]
            index.add(np.ascontiguousarray(rows, np.float32))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"index: expected one that FAISS makes of {len(database):,} descriptors of "
            f"{database.shape[1]}, found {factory!r}: {reason}"
        ) from None
    return index


class FaissIndex:
    """Descriptors to search in, by an index of FAISS."""

    def __init__(self, database: np.ndarray, factory: str = "Flat") -> None:
        """Builds an index over [n, d], see `build_index`."""
        self.database, self.factory = database, factory
        self._index = build_index(database, factory)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest that the index finds.

        Args:
            queries: [q, d].
            k: How many, at most n.

        Returns:
            Indices [q, k] int32, nearest first, and L2 distances [q, k] float32.

        Raises:
            InputError: The index finds fewer than k for some query.
        """
        squared, indices = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        if (indices < 0).any():
            raise InputError(
                f"index: expected {k} neighbours of every query, found fewer with "
                f"{self.factory!r}; take another index, or more of its cells"
            )
        return indices.astype(np.int32), np.sqrt(np.maximum(squared, 0))
