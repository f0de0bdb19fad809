"""Photos a second, from JPEG files to descriptors: python benchmarks/photos.py.

Without the first quarter, while processes start and the program compiles. The floor is what one
core decodes and resizes, times the processors.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mixvpr_jax.models.config import Dtype, ModelConfig  # noqa: E402
from mixvpr_jax.storage import AnyPath  # noqa: E402


def main(
    name: str = "resnet50_4096",
    images: int = 4096,
    image_size: tuple[int, int] = (480, 640),
    dtypes: tuple[Dtype, ...] = ("float32",),
    batch_sizes: tuple[int, ...] = (16, 64),
    num_workers: tuple[int, ...] = (0, 8, 14),
) -> None:
    """Describes the same drawn streets in every way.

    Args:
        name: Which released model; its weights are drawn at random.
        images: How many.
        image_size: Their height and width.
        dtypes: What the model computes in.
        batch_sizes: Images at a time.
        num_workers: Processes that read; 0 for threads.
    """
    # Here, as the processes that read import this file, too.
    from dataclasses import replace

    from evaluate import draw
    from timing import machine

    from mixvpr_jax.evaluation.reading import read
    from mixvpr_jax.preprocess import Preprocess
    from mixvpr_jax.released import RELEASED
    from mixvpr_jax.workers import num_processors

    print(machine())
    config = RELEASED[name].config
    with TemporaryDirectory() as folder:
        paths = draw(Path(folder), images * 4 // 3, image_size).database[:images]
        start, some = time.perf_counter(), paths[:64]
        read(Preprocess(config.image_size, config.interpolation), some)
        floor = num_processors() * len(some) / (time.perf_counter() - start)
        print(
            f"\nfloor: {floor:,.0f} images/s\n\n| dtype | images a batch | processes | images/s |"
        )
        print("| --- | --- | --- | --- |")
        for dtype in dtypes:
            for batch_size in batch_sizes:
                for workers in num_workers:
                    rate = described(replace(config, dtype=dtype), paths, batch_size, workers)
                    print(f"| {dtype} | {batch_size} | {workers} | {rate:,.0f} |", flush=True)


def described(
    config: ModelConfig, paths: Sequence[AnyPath], batch_size: int, num_workers: int
) -> float:
    """Images a second."""
    from mixvpr_jax.evaluation.describe import compile_encoder, describe_images
    from mixvpr_jax.models.vpr import create_model
    from mixvpr_jax.preprocess import Preprocess

    times = []
    describe_images(
        compile_encoder(create_model(config)),
        Preprocess(config.image_size, config.interpolation),
        paths,
        batch_size=batch_size,
        num_workers=num_workers,
        on_progress=lambda count: times.extend([time.perf_counter()] * count),
    )
    first = len(times) // 4
    return (len(times) - 1 - first) / (times[-1] - times[first])


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
