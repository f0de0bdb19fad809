"""A FAISS file of an evaluation's database: python -m mixvpr_jax.evaluation.export_index OUT FILE.

A robot reads it with faiss.read_index(FILE); FILE.images.csv says which image a number is.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from mixvpr_jax.errors import InputError, run_command, starting

with starting(__name__):
    import numpy as np
    import tyro

    from mixvpr_jax.evaluation.faiss_index import Metric, build_index
    from mixvpr_jax.storage import atomic_write


def export_index(
    output: tyro.conf.Positional[Path],
    file: tyro.conf.Positional[Path],
    factory: str = "Flat",
    metric: Metric = "l2",
) -> None:
    """Writes a FAISS index of the database descriptors that eval.py left.

    Args:
        output: The output folder of eval.py.
        file: Where the index goes; the list of its images beside it, as FILE.images.csv.
        factory: Which index, in FAISS's words: Flat, HNSW32, IVF256,Flat, …
        metric: Squared L2 distances, or inner products.
    """
    descriptors = _read_descriptors(output / "database_descriptors.npy")
    images = output / "database_images.csv"
    if not images.is_file():
        raise InputError(f"{images}: expected the list of the images, found no such file")
    index = build_index(descriptors, factory, metric)
    import faiss

    names = file.with_name(f"{file.name}.images.csv")
    with atomic_write(file) as temporary, atomic_write(names) as listed:
        faiss.write_index(index, str(temporary))
        shutil.copyfile(images, listed)
    rows, size = descriptors.shape
    sys.stdout.write(f"{file}: {factory}, {rows:,} descriptors of {size}; images: {names}\n")


def _read_descriptors(path: Path) -> np.ndarray:
    try:
        descriptors = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: expected what eval.py writes, found no such file") from None
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: expected an array of descriptors, found {error}") from None
    if descriptors.ndim != 2 or descriptors.dtype.kind != "f" or not len(descriptors):
        raise InputError(
            f"{path}: expected descriptors [n, d], found {descriptors.dtype} {descriptors.shape}"
        )
    return descriptors


if __name__ == "__main__":
    run_command(lambda: tyro.cli(export_index))
