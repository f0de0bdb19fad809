"""A whole evaluation, from JPEG files to recall: python benchmarks/evaluate.py.

The field's way, as VPR-methods-evaluation goes it, is in evaluate_torch.py. Same files, weights and
neighbours, in turn, in one run; each is a command that is timed from its start to its end, with
imports and, as ours has kept no programs, with compiling.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import tyro

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two processes use one GPU
ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from reference import numpy_state, official_options  # noqa: E402
from reference_torch import VPRModel as TorchModel  # noqa: E402
from timing import machine, median_ratio  # noqa: E402

from demo.town import CityConfig, write_evaluation_folders  # noqa: E402
from mixvpr_jax import save_pretrained  # noqa: E402
from mixvpr_jax.conversion import build_model  # noqa: E402
from mixvpr_jax.conversion.key_table import to_flax  # noqa: E402
from mixvpr_jax.datasets import read_folder_pair  # noqa: E402
from mixvpr_jax.datasets.evaluation_set import EvaluationSet  # noqa: E402
from mixvpr_jax.models.config import Dtype, ModelConfig, OwnAggregatorConfig  # noqa: E402
from mixvpr_jax.released import RELEASED  # noqa: E402


def main(
    name: Literal["resnet50_4096", "resnet50_512", "resnet50_128"] = "resnet50_4096",
    images: int = 2000,
    image_size: tuple[int, int] = (480, 640),
    torch_batch: int = 8,
    num_workers: int = os.cpu_count() or 1,
    rounds: int = 1,
    dtypes: tuple[Dtype, ...] = ("float32",),
) -> None:
    """Times both.

    Args:
        name: Which released model; its weights are drawn at random.
        images: How many, a quarter of them queries.
        image_size: Their height and width.
        torch_batch: How many database images PyTorch takes at a time.
        num_workers: Processes of the DataLoader; ours are as many as the machine suggests.
        rounds: How often each is timed.
        dtypes: What ours computes in, a contender each. PyTorch computes in float32, and on a GPU
            rounds the factors of convolutions to TF32.
    """
    print(machine())
    with TemporaryDirectory() as made:
        folder = Path(made)
        write_weights(folder, name)
        arguments = torch_arguments(name, draw(folder, images, image_size))
        how = {"batch_size": torch_batch, "num_workers": num_workers}
        (folder / "arguments.json").write_text(json.dumps(arguments | how))
        theirs = "PyTorch and FAISS"
        runs = {f"mixvpr-jax, {dtype}": partial(ours, folder, dtype) for dtype in dtypes}
        runs[theirs] = partial(with_torch, folder)
        recalls: dict[str, float] = {}
        times: dict[str, list[float]] = {label: [] for label in runs}
        for _ in range(rounds):
            for label, run in runs.items():
                start = time.perf_counter()
                recalls[label] = run()
                times[label].append(time.perf_counter() - start)
                print(f"{label}: {times[label][-1]:.1f} s", flush=True)
    print("\n| contender | images/s | seconds | times theirs | recall@1 |")
    print("| --- | --- | --- | --- | --- |")
    for label, taken in times.items():
        ratio = median_ratio(times[theirs], taken)
        rate = f"{images / median(taken):.1f} | {median(taken):.1f}"
        print(f"| {label} | {rate} | {ratio:.2f} | {recalls[label]:.2f} |")


def ours(folder: Path, dtype: Dtype) -> float:
    """Recall@1 of a command that has nothing kept from an earlier one."""
    with TemporaryDirectory() as home:
        output = Path(home) / "result"
        options = {
            "weights": folder / "model",
            "database": folder / "database",
            "queries": folder / "queries",
            "output": output,
            "dtype": dtype,
            "latency-queries": "0",
        }
        given = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
        environment = {**os.environ, "MIXVPR_HOME": home}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        run([str(ROOT / "eval.py"), *given], environment)
        return json.loads((output / "results.json").read_text())["recall"]["1"]


def with_torch(folder: Path) -> float:
    """Recall@1 of evaluate_torch.py."""
    script = Path(__file__).with_name("evaluate_torch.py")
    told = run([str(script), str(folder / "weights.pt"), str(folder / "arguments.json")])
    return json.loads(told.splitlines()[-1])["1"]


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a script prints."""
    return subprocess.run(
        [sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout


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


def write_weights(folder: Path, name: str) -> None:
    """The same random weights, for both."""
    config = RELEASED[name].config
    torch.manual_seed(0)
    reference = TorchModel(*torch_options(config)).eval()
    torch.save(reference.state_dict(), folder / "weights.pt")
    save_pretrained(build_model(config, to_flax(numpy_state(reference))), folder / "model")


def torch_options(config: ModelConfig) -> tuple[Any, ...]:
    """What the PyTorch model is made of."""
    assert isinstance(config.aggregator, OwnAggregatorConfig)
    name = config.aggregator.name
    return config.arch, config.layers_to_crop, name, official_options(config)


def torch_arguments(name: str, data: EvaluationSet) -> dict[str, Any]:
    """What evaluate_torch.py evaluates."""
    assert data.positives is not None
    config = RELEASED[name].config
    return {
        "model": torch_options(config),
        "image_size": config.image_size,
        "database": [str(path) for path in data.database],
        "queries": [str(path) for path in data.queries],
        "positives": [found.tolist() for found in data.positives],
    }


if __name__ == "__main__":
    tyro.cli(main)
