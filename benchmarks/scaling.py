"""A step on many devices: what it sends and computes, and how long: python benchmarks/scaling.py.

Compiles a recipe's step for fake devices, without running it, and reads collectives and
floating-point operations off the program. From these and from published figures of accelerators it
projects the time of a step on up to 1,024 of them, and of a search: docs/scaling.md says how far to
trust that. Nothing is timed here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from accelerators import ACCELERATORS, Accelerator  # noqa: E402
from hlo import collective_bytes, collective_counts, collectives  # noqa: E402
from programs import training  # noqa: E402

from mixvpr_jax.distributed import data_mesh  # noqa: E402
from mixvpr_jax.models.vpr import create_model  # noqa: E402
from mixvpr_jax.training.config import TrainConfig  # noqa: E402
from mixvpr_jax.training.recipes import load_recipe  # noqa: E402
from mixvpr_jax.training.step import parameter_groups  # noqa: E402

FLOAT = 4  # bytes
DECODED = 509  # images/s of a core, by processes: benchmarks/README.md
QUERIES = 512
IMAGES = (10**7, 10**8, 10**9)
WIDTHS = (4096, 512, 128)
HELD = 0.8  # of a device's memory, by the database


@dataclass(frozen=True)
class Step:
    """What a step on one device consists of.

    Attributes:
        width: Values of a descriptor.
        parameters: How many are trained.
        statistics: Floats of BatchNorm that are summed over devices, forwards and backwards.
        sums_in_turn: Sums of them that wait for one another.
        flops_per_image: Forwards and backwards, without the pairs of images.
    """

    width: int
    parameters: int
    statistics: int
    sums_in_turn: int
    flops_per_image: float = 0

    def pair_flops(self, each: int, devices: int) -> float:
        """The rows of a device's images against the whole batch: three products."""
        return 6 * each * each * devices * self.width

    def descriptor_bytes(self, each: int, devices: int) -> int:
        """Of all descriptors of the batch."""
        return FLOAT * each * devices * self.width


def main(
    name: str = "resnet50_mixvpr_4096",
    devices: tuple[int, ...] = (1, 8, 64),
    images_per_device: int = 60,
    efficiency: float = 0.2,
    batch_stats_per_device: bool = False,
) -> None:
    """Compiles, counts and projects.

    Args:
        name: A recipe of configs/.
        devices: How many fake devices to compile for.
        images_per_device: Images of each, also where the batch grows with the devices.
        efficiency: The share of an accelerator's peak that a step is assumed to reach.
        batch_stats_per_device: Each normalises by its own images, see `TrainConfig`.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(devices))
    recipe, _ = load_recipe(name)
    config = replace(recipe, batch_stats_per_device=batch_stats_per_device)
    counted = check(config, devices, images_per_device)
    batch = config.data.batch_size
    print(
        f"\nThe recipe's batch of {batch} images, divided; {efficiency:.0%} of the peak assumed:\n"
    )
    project(counted, lambda n: -(-batch // n), efficiency)
    print(f"\n{images_per_device} images on each device:\n")
    project(counted, lambda _: images_per_device, efficiency)
    print(f"\nExact search for {QUERIES} queries in half precision, and memory:\n")
    search()


def check(config: TrainConfig, devices: Iterable[int], each: int) -> Step:
    """Compiles for each number of devices; what was counted and what the model says."""
    names = "gathered, bytes", "scattered", "summed", "by the model", "operations"
    heading("devices", *names, "GFLOP a device", "by the model", "temporary on a CPU, MB")
    counted = None
    for count in devices:
        program, step = compile_step(config, count, each)
        text, flops = program.as_text(), program.cost_analysis()["flops"]
        if counted is None:
            alone = flops - step.pair_flops(each, count)
            counted = replace(step, flops_per_image=alone / each)
        given = collective_bytes(collectives(text))
        sent = [given[kind] for kind in ("all-gather", "reduce-scatter", "all-reduce")]
        sums = FLOAT * (step.parameters + step.statistics) if count > 1 else 0
        model = counted.flops_per_image * each + counted.pair_flops(each, count)
        memory = program.memory_analysis().temp_size_in_bytes
        work = f"{flops / 1e9:,.1f}", f"{model / 1e9:,.1f}", f"{memory / 1e6:,.0f}"
        row(count, *(f"{size:,}" for size in (*sent, sums)), collective_counts(text)[0], *work)
    assert counted is not None
    print(
        f"\n{counted.flops_per_image / 1e9:.1f} GFLOP an image; {counted.parameters:,} parameters "
        f"are trained; {counted.statistics:,} floats of statistics, in {counted.sums_in_turn} sums "
        "one after another"
    )
    return counted


def heading(*cells: str) -> None:
    """The first two lines of a table."""
    row(*cells)
    row(*["---"] * len(cells))


def row(*cells: object) -> None:
    """A line of a table."""
    print(f"| {' | '.join(map(str, cells))} |")


def compile_step(config: TrainConfig, count: int, each: int) -> tuple[Any, Step]:
    """The program on so many fake devices, which is never run, and what it should consist of."""
    lowered, state = training(config, data_mesh(jax.devices()[:count]), count * each)
    model = nnx.eval_shape(lambda: create_model(config.model.architecture))
    images = jax.ShapeDtypeStruct((1, *config.model.image_size, 3), jnp.float32)
    width = jax.eval_shape(model, images).shape[1]
    return lowered.compile({"xla_backend_optimization_level": 0}), planned(config, state, width)


def planned(config: TrainConfig, state: Any, width: int) -> Step:
    """What is summed, by the state's shapes."""
    layers = config.optimizer.layers_to_freeze
    groups = dict(nnx.to_flat_state(parameter_groups(state.params, layers)))
    parameters = sum(
        prod(leaf.shape)
        for path, leaf in nnx.to_flat_state(state.params)
        if groups[path] == "trained"
    )
    means = [
        (groups[*path[:-1], "scale"] == "trained", prod(leaf.shape))
        for path, leaf in nnx.to_flat_state(state.statistics)
        if path[-1] == "mean"
    ]
    if config.batch_stats_per_device:  # the running ones, all at once
        return Step(width, parameters, 2 * sum(channels for _, channels in means), 1)
    # The sums of values and of their squares, at once; backwards those towards them.
    statistics = sum((2 + 2 * trained) * channels for trained, channels in means)
    in_turn = sum(1 + trained for trained, _ in means)
    return Step(width, parameters, statistics, in_turn)


def project(step: Step, images_of: Callable[[int], int], efficiency: float) -> None:
    """A table of the milliseconds that the parts of a step take, none beside another."""
    parts = "compute", "pairs", "descriptors", "gradients", "statistics", "step, ms"
    heading("accelerator", "devices", "images each", *parts, "images/s each", "cores a host")
    for accelerator in ACCELERATORS:
        for devices in (8, 64, 256, 1024):
            each = images_of(devices)
            found = milliseconds(step, accelerator, devices, each, efficiency)
            rate = each / sum(found) * 1e3
            cores = f"{rate * accelerator.per_host / DECODED:.0f} of {accelerator.cores}"
            shown = (f"{part:.1f}" for part in (*found, sum(found)))
            row(accelerator.name, f"{devices:,}", each, *shown, f"{rate:,.0f}", cores)


def milliseconds(
    step: Step, accelerator: Accelerator, devices: int, each: int, efficiency: float
) -> list[float]:
    """Compute, pairs, descriptors (there and back), gradients, statistics."""
    descriptors = step.descriptor_bytes(each, devices)
    seconds = [
        step.flops_per_image * each / (efficiency * accelerator.bfloat16),
        step.pair_flops(each, devices) / (efficiency * accelerator.float32),
        2 * accelerator.gather_seconds(descriptors, devices),
        2 * accelerator.gather_seconds(FLOAT * step.parameters, devices),
        2 * accelerator.gather_seconds(FLOAT * step.statistics, devices)
        + step.sums_in_turn * accelerator.sum_latency(devices),
    ]
    return [1e3 * part for part in seconds]


def search() -> None:
    """Tables of memory, and of the seconds of an exact search by each of its bounds."""
    heading("images", "values", "float32, GB", "float16 or bfloat16", "IVF-PQ of 64 bytes")
    for images in IMAGES:
        for width in WIDTHS:
            half = 2 * images * width
            inverted = images * (64 + 8) + FLOAT * width * (4 * round(images**0.5) + 256)
            sizes = (f"{size / 1e9:,.1f}" for size in (2 * half, half, inverted))
            row(f"{images:,}", width, *sizes)
    print()
    bounds = "products, s", "HBM, s", "host link, s"
    heading("images", "values", "accelerator", "devices that hold it", *bounds)
    for images in IMAGES:
        for width in WIDTHS:
            for accelerator in ACCELERATORS:
                size = 2 * images * width
                devices = -(-size // int(HELD * accelerator.memory))
                seconds = (
                    2 * QUERIES * images * width / devices / accelerator.float32,
                    size / devices / accelerator.bandwidth,
                    size / devices / accelerator.from_host,
                )
                shown = (f"{value:.2g}" for value in seconds)
                row(f"{images:,}", width, accelerator.name, f"{devices:,}", *shown)


if __name__ == "__main__":
    tyro.cli(main)
