"""A full training step against PyTorch, side by side in one run: python benchmarks/train_step.py.

Forward, mining, loss, backward and update of a recipe: by default the official one, ResNet-50 with
stages 1 and 2 frozen, MixVPR, MultiSimilarity, SGD. Each round times every contender once, in turn;
on a CPU each has its own process.
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
from timing import Run, apart, count_flops, in_turn, machine, median_ratio, peak_flops  # noqa: E402

from mixvpr_jax.distributed import data_mesh  # noqa: E402
from mixvpr_jax.losses import multi_similarity  # noqa: E402
from mixvpr_jax.losses.mining import multi_similarity_miner  # noqa: E402
from mixvpr_jax.models.backbones import VITS  # noqa: E402
from mixvpr_jax.models.config import ModelConfig  # noqa: E402
from mixvpr_jax.models.vpr import create_model  # noqa: E402
from mixvpr_jax.programs import keep_memory  # noqa: E402
from mixvpr_jax.training.config import TrainConfig  # noqa: E402
from mixvpr_jax.training.recipes import load_recipe  # noqa: E402
from mixvpr_jax.training.step import create_state, make_optimizer, make_step  # noqa: E402

PAIR = multi_similarity, multi_similarity_miner


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
    start = apart if jax.default_backend() == "cpu" else lambda build, *given: build(*given)
    runs = {"mixvpr-jax": start(jax_run, config, images, labels)}
    for layout in ("eager", "channels-last", *(["compiled"] if compile else [])):
        runs[f"PyTorch {layout}"] = start(torch_run, config, images, labels, layout)
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
    flops = count(config, images, labels)
    floor = flops / peak
    figures = f"{len(labels) / floor:.1f} | {floor * 1e3:.0f}"
    print(f"| {places}x{images_per_place} | floor ({flops / 1e9:.0f} GFLOP) | {figures} | |")
    print(f"\n{memory()}")


def batch(config: TrainConfig, places: int, images_per_place: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised noise, and labels."""
    labels = np.repeat(np.arange(places, dtype=np.int32), images_per_place)
    shape = (len(labels), *config.image_size, 3)
    return np.random.default_rng(0).standard_normal(shape, np.float32), labels


def jax_run(config: TrainConfig, images: np.ndarray, labels: np.ndarray) -> Run:
    """Our side, compiled, as `mixvpr train` runs it."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    keep_memory()
    model, optimizer = create_model(config.model.architecture), optimizer_of(config)
    step = make_step(model, optimizer, *PAIR, data_mesh(jax.devices()[:1]), **options(config))
    state: Any = create_state(model, optimizer)
    placed = jax.device_put((images, labels))
    compiled = step.lower(state, *placed).compile()  # pyright: ignore[reportFunctionMemberAccess]

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, *placed)
        jax.block_until_ready((state, metrics))

    return run


def count(config: TrainConfig, images: np.ndarray, labels: np.ndarray) -> float:
    """The floating-point operations of our step as XLA counts them, in the accelerators' form.

    CPUs' own gradients are loops, whose operations XLA counts once.
    """
    model, optimizer = create_model(config.model.architecture), optimizer_of(config)
    mesh = data_mesh(jax.devices("cpu")[:1])
    step = make_step(model, optimizer, *PAIR, mesh, platform=None, **options(config))
    return count_flops(step, create_state(model, optimizer), images, labels)


def optimizer_of(config: TrainConfig) -> Any:
    """The recipe's optimizer, with an epoch as long as the official one."""
    return make_optimizer(config.optimizer, steps_per_epoch=520)


def options(config: TrainConfig) -> dict[str, Any]:
    """What else the step is made of."""
    return {
        "layers_to_freeze": config.optimizer.layers_to_freeze,
        "grad_cache_chunks": config.grad_cache_chunks,
        "remat_blocks": config.remat_blocks,
    }


def torch_run(config: TrainConfig, images: np.ndarray, labels: np.ndarray, layout: str) -> Run:
    """PyTorch's side; on a GPU the call lasts until the device is done."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    compute = None if config.model.dtype == "float32" else torch.bfloat16
    of_memory = torch.contiguous_format if layout == "eager" else torch.channels_last
    place: dict[str, Any] = {"device": device, "memory_format": of_memory}
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(**place)
    target = torch.from_numpy(labels).to(device)
    training = ReferenceTraining(reference(config.model.architecture).to(**place), config.optimizer)
    if layout == "compiled":
        training.model.compile()

    def run() -> None:
        training.step(inputs, target, config.optimizer.learning_rate, compute)
        if inputs.is_cuda:
            torch.cuda.synchronize()

    return run


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
