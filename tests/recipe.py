"""The recipe of tests/golden/README.md: weights and images that anyone can rebuild."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem.removeprefix("descriptors_") for path in GOLDEN.glob("descriptors_*.npz"))


def recipe_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One entry of a state_dict, from its official name and shape, float64."""
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "p":
        return np.full(shape, 3.0)
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if leaf in ("running_mean", "bias"):
        return 0.1 * z
    if leaf == "running_var":
        return 0.5 + 0.5 * np.abs(z)
    match len(shape):
        case 4:
            return z * np.sqrt(2 / np.prod(shape[1:]))
        case 3:
            return 0.02 * z
        case 2:
            return z * np.sqrt(1 / shape[1])
        case _:
            return 0.5 + 0.1 * z


def recipe_state(shapes: dict[str, tuple[int, ...]], dtype: str = "float32") -> dict:
    """A whole state_dict; counters stay integers."""
    arrays = {name: recipe_array(name, tuple(shape)) for name, shape in shapes.items()}
    return {n: a if a.dtype == np.int64 else a.astype(dtype) for n, a in arrays.items()}


def recipe_images(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Normalised images [b, 3, h, w], float64."""
    return np.random.RandomState(seed).standard_normal(shape)


def trajectory_batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of the golden trajectories: images [16, 3, 64, 64] of 4 places, labels [16]."""
    own = recipe_images(1000 + step, (4, 4, 3, 64, 64)).reshape(16, 3, 64, 64)
    place = recipe_images(2000 + step, (4, 1, 3, 64, 64))
    images = own + 0.7 * np.repeat(place, 4, axis=1).reshape(16, 3, 64, 64)
    return images, np.repeat(np.arange(4), 4) + 4 * step


@cache
def official_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Case → official names and shapes, in order."""
    return json.loads((GOLDEN / "checkpoint_keys.json").read_text())


@cache
def openvprlab_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Case → names and shapes of OpenVPRLab's state_dict."""
    return json.loads((GOLDEN / "openvprlab_keys.json").read_text())


def main() -> None:
    """Writes a checkpoint of the recipe as the authors publish theirs: recipe.py CASE FILE."""
    import sys

    import torch

    case, path = sys.argv[1], Path(sys.argv[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    state = recipe_state(official_shapes()[case])
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)


if __name__ == "__main__":
    main()
