"""Indices of FAISS: approximate, compressed, or for a robot that runs FAISS."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.search import check_descriptors

Metric = Literal["l2", "ip"]
ROWS_AT_ONCE = 65536


def build_index(
    database: np.ndarray,
    factory: str = "Flat",
    metric: Metric = "l2",
    nprobe: int | None = None,
) -> Any:
    """An index of FAISS over descriptors, trained on them where it needs training.

    Args:
        database: [n, d] float32 or float16.
        factory: What `faiss.index_factory` takes: Flat, HNSW32, IVF256,Flat, …
        metric: Squared L2 distances, or inner products: of unit vectors they order alike.
        nprobe: How many of its cells are searched for a query.

    Raises:
        InputError: Descriptors that are not finite; faiss is not installed, does not know or
            cannot train such an index, or it has no cells.
    """
    check_descriptors("database", database)
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
    if nprobe is not None:
        try:
            faiss.ParameterSpace().set_index_parameter(index, "nprobe", nprobe)
        except RuntimeError:
            raise InputError(
                f"faiss_nprobe: expected an index of cells, such as IVF256,Flat, found {factory!r}"
            ) from None
    return index


class FaissIndex:
    """Database descriptors, ready to be searched by an index of FAISS."""

    def __init__(
        self, database: np.ndarray, factory: str = "Flat", nprobe: int | None = None
    ) -> None:
        """Builds an index over [n, d], see `build_index`."""
        self.database, self.factory = database, factory
        self._index = build_index(database, factory, nprobe=nprobe)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest that the index finds.

        Args:
            queries: [q, d].
            k: How many, at most n.

        Returns:
            Indices [q, k] int32, nearest first, and L2 distances [q, k] float32; index -1 at an
            infinite distance where the index finds no more.

        Raises:
            InputError: Queries that are not finite.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        check_descriptors("queries", queries)
        squared, indices = self._index.search(queries, k)
        distances = np.where(indices < 0, np.inf, np.sqrt(np.maximum(squared, 0)))
        return indices.astype(np.int32), distances.astype(np.float32)

    def too_few(self, k: int) -> InputError:
        """The line for fewer neighbours than are needed."""
        return InputError(
            f"index: expected {k} neighbours of every query, found fewer with {self.factory!r}; "
            "search more of an IVF index's cells with --faiss-nprobe, or take another "
            "--faiss-factory"
        )
