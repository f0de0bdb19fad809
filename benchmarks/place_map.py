"""A robot's map, frame by frame, beside FAISS's flat index: python benchmarks/place_map.py.

First a query of a map of random unit vectors, as PlaceMap and as FAISS answer it: the same frame is
asserted. Then a whole frame of a camera, 480x640, by each engine: resized and described, located in
a map of as many frames, and added to it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import faiss
import numpy as np
import tyro

sys.path.append(str(Path(__file__).parent.parent))

from retrieval import filled, memory_mb, unit_vectors
from timing import machine, seconds

from mixvpr_jax import PlaceMap, Preprocess, create_model
from mixvpr_jax.evaluation.describe import compile_encoder
from mixvpr_jax.export.engine import EngineModel
from mixvpr_jax.models.config import Engine, ModelConfig
from mixvpr_jax.released import RELEASED

SIZES, LENGTHS = (512, 4096), (1, 5)
ENGINES: tuple[Engine, ...] = ("jax", "onnxruntime", "openvino", "openvino-bfloat16")
RESNET50 = RELEASED["resnet50_4096"].config
MODELS = {
    "resnet50_4096": RESNET50,
    "the same on ResNet-18": replace(RESNET50, arch="resnet18", layers_to_crop=(4,)),
}


def main(frames: int = 10_000, rounds: int = 50) -> None:
    """Times both.

    Args:
        frames: How many the map holds.
        rounds: How often each is timed.
    """
    print(machine())
    print(f"\n| map | contender | query, ms: median (min) | memory |\n{'| --- ' * 4}|")
    for size in SIZES:
        compare(frames, size, rounds)
    stages = ("resize", "describe", "locate", "add")
    print(f"\n| model | engine | {', ms | '.join(stages)}, ms | frames/s |\n{'| --- ' * 7}|")
    for name, config in MODELS.items():
        for engine in ENGINES:
            taken = drive(config, engine, frames, rounds)
            columns = " | ".join(f"{1e3 * one:.1f}" for one in taken)
            print(f"| {name} | {engine} | {columns} | {1 / sum(taken):.0f} |", flush=True)


def compare(frames: int, size: int, rounds: int) -> None:
    """One part of the first table."""
    rows = unit_vectors(frames, size, 0)
    noisy = rows[:rounds] + 0.5 * unit_vectors(rounds, size, 1)
    queries = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    index = filled(faiss.IndexFlatIP(size), rows)
    for length in LENGTHS:
        before = memory_mb("VmRSS")
        place_map = mapped(rows, length)
        grown = memory_mb("VmRSS") - before
        ours, theirs = [], []
        for number, query in enumerate(queries):
            ours.append(seconds(lambda query=query, place_map=place_map: place_map.locate(query)))
            theirs.append(seconds(lambda query=query: index.search(query[None], 1)))
            assert place_map.locate(query)[0].frame == number == index.search(query[None], 1)[1]
        contender = f"**PlaceMap**, sequences of {length}"
        line(frames, size, contender, ours, f"{grown:,.0f} MB")
        if length == LENGTHS[-1]:
            line(frames, size, "FAISS IndexFlatIP", theirs, "")
    print(f"| {frames:,} x {size} | its values alone | | {rows.nbytes / 2**20:,.0f} MB |")


def line(frames: int, size: int, contender: str, taken: list[float], memory: str) -> None:
    """One line of the first table."""
    times = f"{1e3 * median(taken):.1f} ({1e3 * min(taken):.1f})"
    print(f"| {frames:,} x {size} | {contender} | {times} | {memory} |", flush=True)


def mapped(rows: np.ndarray, length: int) -> PlaceMap:
    """A map of these descriptors."""
    place_map = PlaceMap(sequence_length=length)
    for row in rows:
        place_map.add(row)
    return place_map


def drive(config: ModelConfig, engine: Engine, frames: int, rounds: int) -> list[float]:
    """Seconds of each stage of a frame, medians."""
    model = create_model(config, seed=0)
    encode = compile_encoder(model) if engine == "jax" else EngineModel(model, engine)
    preprocess = Preprocess(config.image_size, config.interpolation)
    images = np.random.default_rng(0).integers(0, 256, (rounds, 480, 640, 3), np.uint8)
    place_map = mapped(unit_vectors(frames, config.descriptor_dim or 0, 0), 5)
    np.asarray(encode(preprocess(images[:1])))  # compiles
    times = np.zeros((rounds, 5))
    for row, image in zip(times, images, strict=True):
        row[0] = time.perf_counter()
        pixels = preprocess(image[None])
        row[1] = time.perf_counter()
        descriptor = np.asarray(encode(pixels))
        row[2] = time.perf_counter()
        place_map.locate(descriptor)
        row[3] = time.perf_counter()
        place_map.add(descriptor)
        row[4] = time.perf_counter()
    return np.median(np.diff(times), axis=0).tolist()


if __name__ == "__main__":
    tyro.cli(main)
