"""Small folders of images and a small model to evaluate on them, shared by tests."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shared import once

from mixvpr_jax import GeMConfig, ModelConfig, create_model, save_pretrained
from mixvpr_jax.evaluation import evaluate as evaluation
from mixvpr_jax.evaluation.config import EvaluationConfig
from mixvpr_jax.report import write_report


@pytest.fixture(scope="session")
def weights(tmp_path_factory):

    def save(folder):
        config = ModelConfig("resnet18", (3, 4), GeMConfig(), (64, 64))
        save_pretrained(create_model(config), folder)
        return folder

    return once(tmp_path_factory, "weights", save)


def write_images(folder, names, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        random = np.random.default_rng([seed, index])
        pixels = random.integers(0, 256, (6, 8, 3), np.uint8)
        image = Image.fromarray(pixels).resize((80 + index, 60), Image.Resampling.BICUBIC)
        image.save(folder / name, quality=95)
    return folder


@pytest.fixture
def labelled(tmp_path):
    """Three places 100 m apart; each query is its place's picture again, but for the last."""
    places = [f"@{500000 + 100 * i}.00@4100000.00@place{i}@.jpg" for i in range(3)]
    database = write_images(tmp_path / "town@7" / "database", places)
    near = [name.replace("@4100000.00@", "@4100024.00@") for name in places[:2]]
    queries = write_images(tmp_path / "town@7" / "queries", [*near, "@9@9@nowhere@.jpg"])
    return database, queries


@pytest.fixture
def evaluate(tmp_path, weights):
    def run(database, queries, **options):
        usual = {"output": tmp_path / "out", "batch_size": 2, "latency_queries": 0}
        folders = {"database": Path(database), "queries": Path(queries)}
        config = EvaluationConfig(**({"weights": str(weights)} | usual | folders | options))
        return evaluation.evaluate(config, write_report)

    return run
