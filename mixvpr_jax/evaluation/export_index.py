"""FAISS's indices, and one as a file: python -m mixvpr_jax.evaluation.export_index OUT FILE.

A robot reads it with faiss.read_index(FILE); FILE.images.csv says which image a number is.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

from mixvpr_jax.errors import InputError, extra, run_command, run_words, starting

with starting(__name__):
    import numpy as np
    import tyro

    from mixvpr_jax.evaluation.output import read_names
    from mixvpr_jax.evaluation.pairs import load_descriptors
    from mixvpr_jax.evaluation.search import check_descriptors, squared_distances
    from mixvpr_jax.storage import atomic_write
    from mixvpr_jax.writable import require_free

ROWS_AT_ONCE = 65536


class FaissIndex:
    """Database descriptors in an index of FAISS: approximate, compressed, or for a robot."""

    def __init__(
        self,
        database: np.ndarray,
        factory: str = "Flat",
        metric: Literal["l2", "ip"] = "l2",
        nprobe: int | None = None,
    ) -> None:
        """Builds the index, and trains it where it needs training.

        Args:
            database: [n, d] float32 or float16.
            factory: What `faiss.index_factory` takes: Flat, HNSW32, IVF256,Flat, …
            metric: Squared L2 distances, or inner products: of unit vectors they order alike.
            nprobe: How many of its cells are searched for a query.

        Raises:
            InputError: Descriptors that are not finite; faiss is not installed, does not know, or
                cannot train or search such an index, or it has no cells.
        """
        check_descriptors("database", database)
        self.database = database
        with extra("faiss", "index: expected FAISS"):
            import faiss
        if re.search(r"(?<![\d.])0+(?![\d.])|HNSW1(?!\d)", factory):  # FAISS ends the process
            raise InputError(
                "index: expected cells, codes and dimensions of 1 or more, and links (HNSW) of 2 "
                f"or more, found {factory!r}"
            )
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        try:
            self.index: Any = faiss.index_factory(database.shape[1], factory, kind)
            if not self.index.is_trained:
                self.index.train(np.ascontiguousarray(database, np.float32))
            for start in range(0, len(database), ROWS_AT_ONCE):
                rows = database[start : start + ROWS_AT_ONCE]
                self.index.add(np.ascontiguousarray(rows, np.float32))
            self.index.search(np.ascontiguousarray(database[:1], np.float32), 1)
        except RuntimeError as error:
            raise InputError(
                f"index: expected one that FAISS makes of {len(database):,} descriptors of "
                f"{database.shape[1]}, found {factory!r}: {str(error).strip().splitlines()[-1]}"
            ) from None
        if nprobe is not None:
            try:
                faiss.ParameterSpace().set_index_parameter(self.index, "nprobe", nprobe)
            except RuntimeError:
                raise InputError(
                    "faiss_nprobe: expected an index of cells, such as IVF256,Flat, found "
                    f"{factory!r}"
                ) from None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest that the index finds, in its order, and the distances of the descriptors.

        Where it finds no more, the index is -1 and the distance infinite.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        check_descriptors("queries", queries)
        _, indices = self.index.search(queries, k)  # its distances are of compressed descriptors
        distances = np.full(indices.shape, np.inf, np.float32)
        for at, (query, rows) in enumerate(zip(queries, indices, strict=True)):
            found, near = rows >= 0, self.database[rows[rows >= 0]]
            distances[at, found] = np.sqrt(squared_distances(query, near))
        return indices.astype(np.int32), distances


def export_index(
    output: tyro.conf.Positional[Path],
    file: tyro.conf.Positional[Path],
    factory: str = "Flat",
    metric: Literal["l2", "ip"] = "l2",
) -> None:
    """Writes a FAISS index of the database descriptors that `mixvpr eval` left.

    Args:
        output: The output folder of `mixvpr eval`.
        file: The index; the list of its images is written next to it, as FILE.images.csv.
        factory: Which index, in FAISS's words: Flat, HNSW32, IVF256,Flat, …
        metric: Squared L2 distances, or inner products.
    """
    path, images = output / "database_descriptors.npy", output / "database_images.csv"
    require_free([file], "the index", overwrite=True, sources=[path, images])
    descriptors = load_descriptors(path)
    if descriptors.ndim != 2 or descriptors.dtype.kind != "f" or not len(descriptors):
        raise InputError(
            f"{path}: expected descriptors [n, d], found {descriptors.dtype} {descriptors.shape}"
        )
    if (found := len(read_names(images))) != len(descriptors):
        raise InputError(
            f"{images}: expected the {len(descriptors):,} images of {path.name}, found {found:,}; "
            "evaluate again"
        )
    index = FaissIndex(descriptors, factory, metric).index
    import faiss

    names = file.with_name(f"{file.name}.images.csv")
    with atomic_write(file) as temporary, atomic_write(names) as listed:
        faiss.write_index(index, str(temporary))
        shutil.copyfile(images, listed)
    rows, size = descriptors.shape
    sys.stdout.write(f"{file}: {factory}, {rows:,} descriptors of {size}; images: {names}\n")


if __name__ == "__main__":
    run_command(lambda: run_words(export_index, sys.argv[1:], "export_index"))
