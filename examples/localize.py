"""Tells where a photo was taken, among photos whose places are known.

mixvpr describe PHOTOS --weights MODEL -o map.npy
python -m examples.localize PHOTO --photos PHOTOS --descriptors map.npy --weights MODEL
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mixvpr_jax import Index, from_pretrained
from mixvpr_jax.errors import one_line, run_command
from mixvpr_jax.exif import read_exif
from mixvpr_jax.models.config import Engine


def localize(
    photo: Annotated[Path, tyro.conf.Positional],
    photos: Path,
    descriptors: Path,
    weights: str,
    k: int = 3,
    engine: Engine = "jax",
) -> None:
    """Prints the most similar photos, and where they were taken if their EXIF data tell it.

    Args:
        photo: The photo to find.
        photos: The folder that was described.
        descriptors: What `mixvpr describe` wrote of it; the names lie beside, in a .txt.
        weights: The model that described it: a folder or a released name.
        k: How many matches.
        engine: What computes the photo's descriptor.
    """
    model, preprocess = from_pretrained(weights, engine=engine)
    index = Index(np.load(descriptors))
    listed = descriptors.with_suffix(".txt").read_bytes()
    names = listed.decode("utf-8-sig", "surrogateescape").splitlines()  # whatever bytes they hold
    [rows], [distances] = index.search(np.asarray(model(preprocess([photo]))), k)
    for row, distance in zip(rows, distances, strict=True):
        position = read_exif(photos / names[row]).position
        where = f"  latitude {position[0]:.6f}, longitude {position[1]:.6f}" if position else ""
        print(f"{1 - distance**2 / 2:.3f}  {one_line(names[row])}{where}")


if __name__ == "__main__":
    run_command(lambda: tyro.cli(localize))
