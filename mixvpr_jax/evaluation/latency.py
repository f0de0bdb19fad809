"""How long one query takes, from its file to its neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from mixvpr_jax.evaluation.describe import Encoder
from mixvpr_jax.preprocess import Preprocess
from mixvpr_jax.storage import AnyPath


@dataclass(frozen=True)
class Latency:
    """Milliseconds that one of several like calls took."""

    median_ms: float
    p95_ms: float


def measure_latency(
    encode: Encoder,
    preprocess: Preprocess,
    search: Callable[[np.ndarray], object],
    paths: Sequence[AnyPath],
) -> dict[str, Latency]:
    """Times queries one by one, as a robot asks them.

    Args:
        encode: Normalised images [1, h, w, 3] → descriptors [1, d].
        preprocess: The model's preprocessing; decoding counts as part of it.
        search: Finds the neighbours of descriptors [1, d].
        paths: The queries. The first is asked once more beforehand, to compile.

    Returns:
        "preprocessing", "model" and "search" → what they took.
    """
    search(np.asarray(encode(preprocess(paths[0])), np.float32))
    seconds = []
    for path in paths:
        times = [time.perf_counter()]
        image = preprocess(path)
        times.append(time.perf_counter())
        descriptor = np.asarray(jax.block_until_ready(encode(image)), np.float32)
        times.append(time.perf_counter())
        search(descriptor)
        times.append(time.perf_counter())
        seconds.append(np.diff(times))
    stages = zip(("preprocessing", "model", "search"), np.transpose(seconds), strict=True)
    return {
        name: Latency(*(1e3 * np.percentile(taken, (50, 95))).tolist()) for name, taken in stages
    }
