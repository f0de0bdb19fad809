"""Exact search, against FAISS, side by side in one run: python benchmarks/retrieval.py.

Both search all descriptors for the nearest 20 of 500 queries, with the same number of threads, and
must find the same. FAISS's index is built beforehand; ours reads plain arrays. The floor is the
arithmetic of the products at the speed of this machine's best large matrix product.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

# Settings for the whole machine may tie BLAS to kernels of an older processor.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import tyro  # noqa: E402

sys.path.append(str(Path(__file__).parent.parent))

from timing import machine, peak_flops, seconds  # noqa: E402

from mixvpr_jax.evaluation.retrieval import nearest_neighbours  # noqa: E402

SIZES = ((50_000, 512), (20_000, 4096), (100_000, 512))


def main(
    sizes: tuple[tuple[int, int], ...] = SIZES,
    num_queries: int = 500,
    k: int = 20,
    rounds: int = 10,
    memory_megabytes: int = 1024,
) -> None:
    """Times both on random unit vectors.

    Args:
        sizes: Database descriptors, and values of each.
        num_queries: How many queries.
        k: How many neighbours.
        rounds: How often each contender is timed.
        memory_megabytes: Our budget, to which the growth of the process is compared.
    """
    print(machine())
    print(f"faiss {faiss.__version__}, {faiss.omp_get_max_threads()} threads")
    peak = peak_flops("float32")
    print(f"\nlargest matrix product: {peak / 1e9:,.0f} GFLOP/s\n")
    print("| database | contender | ms: median (min) | time against IndexFlatL2 | memory |")
    print("| --- | --- | --- | --- | --- |")
    for count, size in sizes:
        compare(count, size, num_queries, k, rounds, memory_megabytes, peak)


def compare(
    count: int, size: int, num_queries: int, k: int, rounds: int, megabytes: int, peak: float
) -> None:
    """One part of the table."""
    database, queries = unit_vectors(count, size, 0), unit_vectors(num_queries, size, 1)
    indices = {
        "FAISS IndexFlatL2": faiss.IndexFlatL2(size),
        "FAISS IndexFlatIP": faiss.IndexFlatIP(size),
    }
    before = peak_memory_mb()
    ours, _ = nearest_neighbours(queries, database, k, memory_bytes=megabytes << 20)
    grown = peak_memory_mb() - before
    runs: dict[str, Callable[[], object]] = {
        "**mixvpr-jax**": lambda: nearest_neighbours(
            queries, database, k, memory_bytes=megabytes << 20
        )
    }
    for name, index in indices.items():
        index.add(database)
        runs[name] = lambda index=index: index.search(queries, k)
    _, theirs = indices["FAISS IndexFlatL2"].search(queries, k)
    check_same(ours, theirs, queries, database)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    for name, taken in times.items():
        base = times["FAISS IndexFlatL2"]
        ratio = median(a / b for a, b in zip(taken, base, strict=True))
        memory = f"{grown:,.0f} MB of {megabytes:,}" if name.startswith("**") else ""
        shown = f"{1e3 * median(taken):.0f} ({1e3 * min(taken):.0f})"
        print(f"| {count:,} x {size} | {name} | {shown} | {ratio:.2f} | {memory} |", flush=True)
    flops = 2 * num_queries * count * size
    print(
        f"| {count:,} x {size} | floor ({flops / 1e9:.0f} GFLOP) | {1e3 * flops / peak:.0f} | | |"
    )


def unit_vectors(count: int, size: int, seed: int) -> np.ndarray:
    """Random descriptors."""
    rows = np.random.default_rng(seed).standard_normal((count, size), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def check_same(
    ours: np.ndarray, theirs: np.ndarray, queries: np.ndarray, database: np.ndarray
) -> None:
    """Fails where neighbours differ, but where float64 says that FAISS's rounding swapped two."""
    for row, place in zip(*np.nonzero(ours != theirs), strict=True):
        pair = database[[ours[row, place], theirs[row, place]]].astype(np.float64)
        near, far = ((pair - queries[row]) ** 2).sum(1)
        assert near <= far <= near + 1e-6, f"query {row}: another neighbour at place {place + 1}"


def peak_memory_mb() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    tyro.cli(main)
