"""A step on many devices: what it sends, computes and moves: python benchmarks/scaling.py.

Compiles a recipe's step for fake devices, without running it, and reads collectives and
floating-point operations off the program. From these, from the accelerators' own programs
(compiled.py) and from published figures it says what bounds a step, and a search. Nothing is timed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import jax
import tyro
from flax import nnx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from accelerators import ACCELERATORS, Accelerator  # noqa: E402
from hlo import collective_bytes, collective_counts, collectives  # noqa: E402
from programs import training  # noqa: E402

from mixvpr_jax.distributed import data_mesh  # noqa: E402
from mixvpr_jax.training.config import TrainConfig  # noqa: E402
from mixvpr_jax.training.recipes import load_recipe  # noqa: E402
from mixvpr_jax.training.step import parameter_groups  # noqa: E402

COMPILED = ROOT / "benchmarks" / "compiled.json"
FLOAT = 4  # bytes
QUERIES = 512
IMAGES = 10**8
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
    batch_stats_per_device: bool = False,
) -> None:
    """Compiles, counts and projects.

    Args:
        name: A recipe of configs/.
        devices: How many fake devices to compile for.
        images_per_device: Images of each.
        batch_stats_per_device: Each normalises by its own images, see `TrainConfig`.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(devices))
    recipe, _ = load_recipe(name)
    config = replace(recipe, batch_stats_per_device=batch_stats_per_device)
    counted = check(config, devices, images_per_device)
    print(f"\nThe recipe's batch divided, by the programs in {COMPILED.name}, milliseconds:\n")
    project(counted)
    print(f"\n{IMAGES:,} images: memory, and exact search for {QUERIES} queries:\n")
    search()


def check(config: TrainConfig, devices: Iterable[int], each: int) -> Step:
    """Compiles for each number of devices; what was counted and what the model says."""
    names = "gathered, bytes", "scattered", "all-reduced", "cost model", "operations"
    heading("devices", *names, "GFLOP per device", "cost model", "temporary on a CPU, MB")
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
    mesh = data_mesh(jax.devices()[:count])
    # CPUs' own gradients are loops, whose operations XLA counts once.
    lowered, state = training(config, mesh, count * each, platform=None)
    width = config.model.architecture.descriptor_dim
    assert width is not None, "the model has no aggregator"
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


def project(step: Step) -> None:
    """A table of the milliseconds that bound a step of the recipe's batch, of the programs in JSON.

    Sums and gathers follow the computation; of it FLOP or HBM, whichever takes longer, counts.
    """
    parts = "FLOP", "HBM", "descriptors", "gradients", "statistics"
    heading("accelerator", "devices", "images each", *parts, "at least", "images/s each, at most")
    for program in json.loads(COMPILED.read_text()):
        found = re.fullmatch(r"step, (\d+) images, (\d+) devices?", program["name"])
        if not found or "failed" in program:
            continue
        accelerator, devices = ACCELERATORS[program["target"]], int(found[2])
        each = -(-int(found[1]) // devices)
        work = 1e3 * (program["flops"] or 0) / accelerator.bfloat16
        moved = 1e3 * sum(program["bytes_by_class"].values()) / accelerator.bandwidth
        sums = milliseconds(step, accelerator, devices, each) if devices > 1 else [0.0] * 3
        least = max(work, moved) + sum(sums)
        shown = (f"{part:.1f}" for part in (work, moved, *sums, least))
        row(accelerator.name, devices, each, *shown, f"{1e3 * each / least:,.0f}")


def milliseconds(step: Step, accelerator: Accelerator, devices: int, each: int) -> list[float]:
    """Descriptors (there and back), gradients, statistics."""
    seconds = [
        2 * accelerator.gather_seconds(step.descriptor_bytes(each, devices), devices),
        2 * accelerator.gather_seconds(FLOAT * step.parameters, devices),
        2 * accelerator.gather_seconds(FLOAT * step.statistics, devices)
        + step.sums_in_turn * accelerator.sum_latency(devices),
    ]
    return [1e3 * part for part in seconds]


def search() -> None:
    """Tables of memory, and of the seconds of an exact search by each of its bounds."""
    heading("values", "float32, GB", "float16 or bfloat16", "IVF-PQ of 64 bytes")
    for width in WIDTHS:
        half = 2 * IMAGES * width
        inverted = IMAGES * (64 + 8) + FLOAT * width * (4 * round(IMAGES**0.5) + 256)
        row(width, *(f"{size / 1e9:,.1f}" for size in (2 * half, half, inverted)))
    print()
    bounds = "products, s", "HBM, s", "host link, s"
    heading("values", "accelerator", "devices that hold it", *bounds)
    for width in WIDTHS:
        for accelerator in ACCELERATORS.values():
            size = 2 * IMAGES * width
            devices = -(-size // int(HELD * accelerator.memory))
            seconds = (
                2 * QUERIES * IMAGES * width / devices / accelerator.float32,
                size / devices / accelerator.bandwidth,
                size / devices / accelerator.from_host,
            )
            row(width, accelerator.name, devices, *(f"{value:.2g}" for value in seconds))


if __name__ == "__main__":
    tyro.cli(main)
