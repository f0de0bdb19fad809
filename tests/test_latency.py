"""What a query takes, by stage, on a clock that goes as it is told."""

from pathlib import Path

import numpy as np
import pytest

from mixvpr_jax.evaluation import evaluate
from mixvpr_jax.preprocess import Preprocess

SECONDS = {"preprocessing": [1, 1, 2, 9], "model": [3, 0, 3, 3], "search": [0, 0.5, 0, 0]}


def test_stages_are_timed_query_by_query(monkeypatch):
    now, asked = [100.0], []

    def passes(stage):
        def call(_):
            query = len(asked) - 2  # -1 beforehand, when the clock does not count
            now[0] += 1000 if query < 0 else SECONDS[stage][query]
            return np.zeros((1, 2), np.float32)

        return call

    class Preprocessing(Preprocess):
        def resize(self, path):
            asked.append(path)
            return passes("preprocessing")(path)

    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: now[0])
    paths = [Path(name) for name in "abcd"]
    found = evaluate.measure_latency(
        passes("model"), Preprocessing((1, 2)), passes("search"), paths
    )
    assert asked == [paths[0], *paths]
    assert list(found) == list(SECONDS)
    for stage, taken in found.items():
        ordered = sorted(SECONDS[stage])
        assert taken["median_ms"] == pytest.approx(500 * (ordered[1] + ordered[2]))
        assert taken["p95_ms"] == pytest.approx(1000 * (0.15 * ordered[2] + 0.85 * ordered[3]))
