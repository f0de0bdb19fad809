"""Exact search, against FAISS, side by side in one run: python benchmarks/retrieval.py.

Both search all descriptors for the nearest 20 of 500 queries, with the same number of threads, and
must find the same. A search is timed in an index that was built beforehand, as for queries that
come one after another, and with the building of the index, as an evaluation needs it. The floor is
the arithmetic of the products at the speed of this machine's best large matrix product.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

# Settings for the whole machine may tie BLAS to kernels of an older processor.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import tyro  # noqa: E402

sys.path.append(str(Path(__file__).parent.parent))

from timing import machine, median_ratio, peak_flops, seconds  # noqa: E402

from mixvpr_jax.evaluation.search import Index  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
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
    titles = "search, ms: median (min) | of L2's time | built and searched, ms | of L2's time"
    print(f"| database | contender | {titles} | memory |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for count, size in sizes:
        compare(count, size, num_queries, k, rounds, memory_megabytes, peak)


def compare(
    count: int, size: int, num_queries: int, k: int, rounds: int, megabytes: int, peak: float
) -> None:
    """One part of the table."""
    database, queries = unit_vectors(count, size, 0), unit_vectors(num_queries, size, 1)
    build: dict[str, Callable[[], Any]] = {
        "**mixvpr-jax**": lambda: Index(database, memory_bytes=megabytes << 20),
        "FAISS IndexFlatL2": lambda: filled(faiss.IndexFlatL2(size), database),
        "FAISS IndexFlatIP": lambda: filled(faiss.IndexFlatIP(size), database),
        f"PyTorch, {DEVICE}": lambda: TorchIndex(database),
    }
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    built = {name: make() for name, make in build.items() if name.startswith("**")}
    ours, _ = built["**mixvpr-jax**"].search(queries, k)
    grown = memory_mb("VmHWM") - before
    built |= {name: make() for name, make in build.items() if name not in built}
    _, theirs = built["FAISS IndexFlatL2"].search(queries, k)
    check_same(ours, theirs, queries, database)
    searched: dict[str, list[float]] = {name: [] for name in build}
    whole: dict[str, list[float]] = {name: [] for name in build}
    for _ in range(rounds):
        for name, make in build.items():
            searched[name].append(seconds(lambda name=name: built[name].search(queries, k)))
            whole[name].append(seconds(lambda make=make: make().search(queries, k)))
    for name in build:
        memory = f"{max(grown, 0):,.0f} MB of {megabytes:,}" if name.startswith("**") else ""
        columns = []
        for taken in (searched, whole):
            ratio = median_ratio(taken[name], taken["FAISS IndexFlatL2"])
            columns.append(f"{1e3 * median(taken[name]):.0f} ({1e3 * min(taken[name]):.0f})")
            columns.append(f"{ratio:.2f}")
        print(f"| {count:,} x {size} | {name} | {' | '.join(columns)} | {memory} |", flush=True)
    flops = 2 * num_queries * count * size
    floor = f"floor in float32 ({flops / 1e9:.0f} GFLOP)"
    print(f"| {count:,} x {size} | {floor} | {1e3 * flops / peak:.0f} | | | | |")


class TorchIndex:
    """All scores at once, on a GPU where there is one, and PyTorch's topk of them."""

    def __init__(self, database: np.ndarray) -> None:
        self.rows = torch.from_numpy(database).to(DEVICE)
        self.norms = (self.rows**2).sum(1)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores 2 qd - |d|² and indices, [q, k]."""
        products = torch.from_numpy(queries).to(DEVICE) @ self.rows.T
        scores, indices = (2 * products - self.norms).topk(k)
        return scores.cpu().numpy(), indices.cpu().numpy()


def filled(index: Any, database: np.ndarray) -> Any:
    """An index of FAISS over descriptors."""
    index.add(database)
    return index


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


def memory_mb(which: str) -> float:
    """What this process holds (VmRSS), or the most that it has held (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return (
        int(next(line for line in status.splitlines() if line.startswith(which)).split()[1]) / 1024
    )


if __name__ == "__main__":
    tyro.cli(main)
