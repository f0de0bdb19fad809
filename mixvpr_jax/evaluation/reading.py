"""Image files, read and resized batch by batch: what worker processes import, hence without JAX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.cache import Part
from mixvpr_jax.orientation import was_turned
from mixvpr_jax.preprocess import Preprocess, load_image
from mixvpr_jax.storage import AnyPath, OutOfReach


def read(preprocess: Preprocess, paths: Sequence[AnyPath]) -> Part:
    """Reads and resizes images; only what is wrong with a file itself makes it unreadable.

    Raises:
        OutOfReach: An object store that could not be asked.
    """
    pixels = np.zeros((len(paths), *preprocess.image_size, 3), np.uint8)
    reasons, turned = np.full(len(paths), "", object), np.zeros(len(paths), bool)
    for row, path in enumerate(paths):
        try:
            image = load_image(path)
            turned[row] = was_turned(image)
            image.info.clear()  # it is upright: nothing shall turn it again
            pixels[row] = preprocess.resize(image)
        except OutOfReach:
            raise
        except InputError as error:
            reasons[row] = str(error)
    return Part(pixels, reasons, turned)
