"""A whole evaluation, from JPEG files to recall: python benchmarks/evaluate.py.

The field's way, as VPR-methods-evaluation goes it, is in evaluate_torch.py. Same files, weights,
neighbours and number of workers, in turn, in one run; compiling counts as part of ours, starting
Python and importing on neither side.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import tyro

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from reference import numpy_state, official_options  # noqa: E402
from reference_torch import VPRModel as TorchModel  # noqa: E402
from timing import machine  # noqa: E402

from demo.town import CityConfig, write_evaluation_folders  # noqa: E402
from mixvpr_jax.conversion import build_model  # noqa: E402
from mixvpr_jax.conversion.key_table import to_flax  # noqa: E402
from mixvpr_jax.datasets import read_folder_pair  # noqa: E402
from mixvpr_jax.datasets.evaluation_set import EvaluationSet  # noqa: E402
from mixvpr_jax.evaluation.config import EvaluationConfig  # noqa: E402
from mixvpr_jax.evaluation.evaluate import Evaluator  # noqa: E402
from mixvpr_jax.models.config import ModelConfig, OwnAggregatorConfig  # noqa: E402
from mixvpr_jax.preprocess import Preprocess  # noqa: E402
from mixvpr_jax.released import RELEASED  # noqa: E402

KS = (1, 5, 10, 20)


def main(
    name: Literal["resnet50_4096", "resnet50_512", "resnet50_128"] = "resnet50_4096",
    images: int = 2000,
    image_size: tuple[int, int] = (480, 640),
    torch_batch: int = 8,
    num_workers: int = os.cpu_count() or 1,
    rounds: int = 1,
) -> None:
    """Times both.

    Args:
        name: Which released model; its weights are drawn at random.
        images: How many, a quarter of them queries.
        image_size: Their height and width.
        torch_batch: How many database images PyTorch takes at a time.
        num_workers: Processes of the DataLoader; our threads are as many as there are processors.
        rounds: How often each is timed.
    """
    print(machine())
    reference, config = torch_model(name)
    with TemporaryDirectory() as drawn:
        data = draw(Path(drawn), images, image_size)
        assert data.positives is not None
        arguments = {
            "model": torch_options(config),
            "image_size": config.image_size,
            "database": [str(path) for path in data.database],
            "queries": [str(path) for path in data.queries],
            "positives": [found.tolist() for found in data.positives],
            "batch_size": torch_batch,
            "num_workers": num_workers,
        }

        def ours() -> tuple[float, dict[int, float]]:
            start = time.perf_counter()
            model = build_model(config, to_flax(numpy_state(reference)))
            how = EvaluationConfig(name, Path(), **folders(Path(drawn)), **QUIET)
            evaluator = Evaluator(how, model, Preprocess(config.image_size, config.interpolation))
            recall = dict(evaluator.evaluate(data, KS).recall or {})
            return time.perf_counter() - start, recall

        def theirs() -> tuple[float, dict[int, float]]:
            return evaluate_with_torch(Path(drawn), reference, arguments)

        recalls: dict[str, dict[int, float]] = {}
        times: dict[str, list[float]] = {"mixvpr-jax": [], "PyTorch and FAISS": []}
        for _ in range(rounds):
            for label, run in zip(times, (ours, theirs), strict=True):
                taken, recalls[label] = run()
                times[label].append(taken)
    print("\n| contender | images/s | seconds | times theirs | recall@1 |")
    print("| --- | --- | --- | --- | --- |")
    for label, taken in times.items():
        ratio = median(b / a for a, b in zip(taken, times["PyTorch and FAISS"], strict=True))
        typical = median(taken)
        print(
            f"| {label} | {images / typical:.1f} | {typical:.1f} | {ratio:.2f} | "
            f"{recalls[label][1]:.2f} |"
        )


QUIET: dict[str, Any] = {"cache_gigabytes": 0, "latency_queries": 0}


def folders(drawn: Path) -> dict[str, Path]:
    """The two folders, by the names of a configuration's fields."""
    return {"database": drawn / "database", "queries": drawn / "queries"}


def draw(folder: Path, images: int, size: tuple[int, int]) -> EvaluationSet:
    """Streets, drawn once and copied until there are as many as wanted, each a place of its own."""
    town = CityConfig(10, 4, image_size=size, difficulty=0.5, seed=7)
    write_evaluation_folders(town, folder / "drawn", workers=os.cpu_count() or 1)
    for part, count in (("database", images - images // 4), ("queries", images // 4)):
        pictures = sorted((folder / "drawn" / part).iterdir())
        (folder / part).mkdir()
        for index in range(count):
            target = folder / part / f"@{500000 + 100 * index}@4100000@{index}@.jpg"
            shutil.copy(pictures[index % len(pictures)], target)
    return read_folder_pair(folder / "database", folder / "queries")


def torch_model(name: str) -> tuple[TorchModel, ModelConfig]:
    """The model in PyTorch, and what it is."""
    config = RELEASED[name].config
    torch.manual_seed(0)
    return TorchModel(*torch_options(config)).eval(), config


def torch_options(config: ModelConfig) -> tuple[Any, ...]:
    """What the PyTorch model is made of."""
    assert isinstance(config.aggregator, OwnAggregatorConfig)
    name = config.aggregator.name
    return config.arch, config.layers_to_crop, name, official_options(config)


def evaluate_with_torch(
    folder: Path, model: TorchModel, arguments: dict[str, Any]
) -> tuple[float, dict[int, float]]:
    """Seconds and recalls of evaluate_torch.py."""
    torch.save(model.state_dict(), folder / "weights.pt")
    (folder / "arguments.json").write_text(json.dumps(arguments))
    script = Path(__file__).with_name("evaluate_torch.py")
    command = [sys.executable, str(script), str(folder / "weights.pt")]
    done = subprocess.run(
        [*command, str(folder / "arguments.json")], check=True, capture_output=True, text=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    return told["seconds"], {int(k): percent for k, percent in told["recall"].items()}


if __name__ == "__main__":
    tyro.cli(main)
