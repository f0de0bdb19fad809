"""What every benchmark measures with."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import torch

Run = Callable[[], object]


def seconds(run: Run) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turn(runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round; a machine whose speed drifts favours none."""
    times: dict[str, list[float]] = {contender: [] for contender in runs}
    for _ in range(rounds):
        for contender, run in runs.items():
            times[contender].append(seconds(run))
    return times


def apart(build: Callable[..., Run], *arguments: object) -> Run:
    """Builds and runs in a process of its own: an allocator's settings hold for a whole process."""
    spawn = get_context("spawn")
    here, there = spawn.Pipe()
    spawn.Process(target=_serve, args=(there, build, arguments), daemon=True).start()
    there.close()  # so that the end of that process is an error here
    here.recv()

    def run() -> None:
        here.send(None)
        here.recv()

    return run


def _serve(connection: Any, build: Callable[..., Run], arguments: tuple[object, ...]) -> None:
    run = build(*arguments)
    with suppress(EOFError):  # the end
        while True:
            connection.send(None)
            connection.recv()
            run()


def median_ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """Of each round's pair, the median."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def count_flops(function: Callable[..., object], *arguments: object) -> float:
    """Floating-point operations of a call as XLA counts them; GPUs' compilers do not, CPUs' do."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    with jax.default_device(jax.devices("cpu")[0]):
        return (jax.jit(function).lower(*shapes).cost_analysis() or {})["flops"]


def peak_flops(dtype: str) -> float:
    """Floating-point operations a second of the fastest large matrix product, in JAX or PyTorch."""
    size = 8192 if jax.default_backend() == "gpu" else 2048
    ones = jnp.ones((size, size), dtype)
    precision = None if dtype == "bfloat16" else "highest"
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    tensor = torch.ones(size, size, dtype=getattr(torch, dtype))
    tensor = tensor.cuda() if torch.cuda.is_available() else tensor

    def torch_product() -> None:
        torch.matmul(tensor, tensor)
        if tensor.is_cuda:
            torch.cuda.synchronize()

    best = min(
        seconds(run)
        for _ in range(10)
        for run in (lambda: jax.block_until_ready(product(ones)), torch_product)
    )
    return 2 * size**3 / best


def machine() -> str:
    """What this ran on."""
    return "\n".join(f"{name}: {value}" for name, value in _facts())


def _facts() -> Iterator[tuple[str, str]]:
    yield "device", f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"
    if jax.default_backend() == "cpu":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        yield "processor", names[0] if names else platform.processor()
    yield "versions", f"jax {jax.__version__}, torch {torch.__version__}"
    yield "threads", f"torch {torch.get_num_threads()}"
