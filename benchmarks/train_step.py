"""A full training step against PyTorch, side by side in one run: python benchmarks/train_step.py.

Forward, mining, loss, backward and update of a recipe: by default the official one, ResNet-50 with
stages 1 and 2 frozen, MixVPR, MultiSimilarity, SGD. Each round times every contender once, in turn.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import numpy as np
import torch
import tyro

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from reference_dinov2 import TorchModel  # noqa: E402
from reference_training import ReferenceTraining, official_model  # noqa: E402
from timing import Run, count_flops, in_turn, machine, median_ratio, peak_flops  # noqa: E402

from mixvpr_jax.distributed import data_mesh  # noqa: E402
from mixvpr_jax.losses import multi_similarity  # noqa: E402
from mixvpr_jax.losses.mining import multi_similarity_miner  # noqa: E402
from mixvpr_jax.models.backbones import VITS  # noqa: E402
from mixvpr_jax.models.config import ModelConfig  # noqa: E402
from mixvpr_jax.models.vpr import create_model  # noqa: E402
from mixvpr_jax.training.config import TrainConfig  # noqa: E402
from mixvpr_jax.training.recipes import load_recipe  # noqa: E402
from mixvpr_jax.training.step import create_state, make_optimizer, make_step  # noqa: E402


def main(
    name: str = "resnet50_mixvpr_4096",
    places: int = 4,
    images_per_place: int = 4,
    dtype: Literal["float32", "bfloat16"] = "float32",
    grad_cache_chunks: int = 1,
    remat_blocks: bool = False,
    compile: bool = False,
    rounds: int = 5,
) -> None:
    """Times steps on images that already lie on the device.

    Args:
        name: A recipe of configs/ that trains with MultiSimilarity, on a ResNet or DINOv2.
        places: Places a batch; the official recipe has 120.
        images_per_place: Images of each.
        dtype: What both sides compute in (PyTorch under autocast).
        grad_cache_chunks: Of gradient caching, on our side.
        remat_blocks: Whether our blocks compute activations again.
        compile: Whether torch.compile takes part.
        rounds: How often each contender is timed.
    """
    recipe, _ = load_recipe(name)
    config = replace(
        recipe,
        grad_cache_chunks=grad_cache_chunks,
        remat_blocks=remat_blocks,
        model=replace(recipe.model, dtype=dtype),
    )
    print(machine())
    peak = peak_flops(dtype)
    print(f"\nlargest matrix product: {peak / 1e9:,.0f} GFLOP/s ({dtype})\n")
    images, labels = batch(config, places, images_per_place)
    ours, flops = jax_run(config, images, labels)
    runs = {"mixvpr-jax": ours, **torch_runs(config, images, labels, compile)}
    for run in runs.values():
        run()
    times = in_turn(runs, rounds)
    print("| batch | contender | images/s | ms a step: median (min) | time against eager |")
    print("| --- | --- | --- | --- | --- |")
    for contender, values in times.items():
        ratio = median_ratio(values, times["PyTorch eager"])
        typical, best = median(values), min(values)
        figures = f"{len(labels) / typical:.1f} | {typical * 1e3:.0f} ({best * 1e3:.0f})"
        print(f"| {places}x{images_per_place} | {contender} | {figures} | {ratio:.2f} |")
    floor = flops / peak
    figures = f"{len(labels) / floor:.1f} | {floor * 1e3:.0f}"
    print(f"| {places}x{images_per_place} | floor ({flops / 1e9:.0f} GFLOP) | {figures} | |")
    print(f"\n{memory()}")


def batch(config: TrainConfig, places: int, images_per_place: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised noise, and labels."""
    labels = np.repeat(np.arange(places, dtype=np.int32), images_per_place)
    shape = (len(labels), *config.image_size, 3)
    return np.random.default_rng(0).standard_normal(shape, np.float32), labels


def jax_run(config: TrainConfig, images: np.ndarray, labels: np.ndarray) -> tuple[Run, float]:
    """Our side, compiled, and its floating-point operations as XLA counts them."""
    model = create_model(config.model.architecture)
    optimizer = make_optimizer(config.optimizer, steps_per_epoch=520)
    pair = multi_similarity, multi_similarity_miner
    options = {
        "layers_to_freeze": config.optimizer.layers_to_freeze,
        "grad_cache_chunks": config.grad_cache_chunks,
        "remat_blocks": config.remat_blocks,
    }
    step = make_step(model, optimizer, *pair, data_mesh(jax.devices()[:1]), **options)
    # CPUs' own gradients are loops, whose operations XLA counts once.
    on_cpu = data_mesh(jax.devices("cpu")[:1])
    counted = make_step(model, optimizer, *pair, on_cpu, platform=None, **options)
    state: Any = create_state(model, optimizer)
    flops = count_flops(counted, state, images, labels)
    placed = jax.device_put((images, labels))
    compiled = step.lower(state, *placed).compile()  # pyright: ignore[reportFunctionMemberAccess]

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, *placed)
        jax.block_until_ready((state, metrics))

    return run, flops


def torch_runs(
    config: TrainConfig, images: np.ndarray, labels: np.ndarray, compile: bool
) -> dict[str, Run]:
    """PyTorch's side; on a GPU the call lasts until the device is done."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    compute = None if config.model.dtype == "float32" else torch.bfloat16
    layouts = {"eager": torch.contiguous_format, "channels-last": torch.channels_last}
    layouts |= {"compiled": torch.channels_last} if compile else {}
    runs: dict[str, Run] = {}
    for label, layout in layouts.items():
        place: dict[str, Any] = {"device": device, "memory_format": layout}
        inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(**place)
        target = torch.from_numpy(labels).to(device)
        model = reference(config.model.architecture).to(**place)
        training = ReferenceTraining(model, config.optimizer)
        if label == "compiled":
            training.model.compile()

        def run(training: Any = training, inputs: Any = inputs, target: Any = target) -> None:
            training.step(inputs, target, config.optimizer.learning_rate, compute)
            if inputs.is_cuda:
                torch.cuda.synchronize()

        runs[f"PyTorch {label}"] = run
    return runs


def reference(config: ModelConfig) -> Any:
    """The same model in PyTorch, with fresh weights."""
    return TorchModel(create_model(config)) if config.arch in VITS else official_model(config)


def memory() -> str:
    """The most memory that each side held on an accelerator."""
    found = jax.devices()[0].memory_stats()
    if not found:
        return "memory: not counted on this device"
    ours = found["peak_bytes_in_use"] / 1e9
    theirs = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan")
    return f"memory: mixvpr-jax {ours:.1f} GB, PyTorch (both models) {theirs:.1f} GB"


if __name__ == "__main__":
    tyro.cli(main)
