"""Memory of describing and searching, in copies of the descriptors: python benchmarks/memory.py.

An encoder that computes nothing stands in for the model. Memory is what the kernel says that the
process took at most, less what it took before; pages of a mapped file count, although the kernel
may write them out and take them back.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tyro
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mixvpr_jax.evaluation import describe  # noqa: E402
from mixvpr_jax.evaluation.recall import best_positives  # noqa: E402
from mixvpr_jax.evaluation.search import Index  # noqa: E402
from mixvpr_jax.preprocess import Preprocess  # noqa: E402

QUERIES = 100


def main(images: int = 40_000, size: int = 4096, memory_gigabytes: float = 4.3) -> None:
    """Prints how much each stage has taken by its end.

    Args:
        images: How many.
        size: Values of a descriptor.
        memory_gigabytes: Descriptors beyond that are mapped from a file.
    """
    describe.IN_MEMORY_BYTES = int(1e9 * memory_gigabytes)
    random = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        photo = Path(folder, "photo.png")
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(photo)

        def encode(batch: np.ndarray) -> np.ndarray:
            return random.standard_normal((len(batch), size), np.float32)

        def run(count: int) -> None:
            how = {"batch_size": 64, "temporary": Path(folder)}
            found = describe.describe_images(
                encode, Preprocess((16, 16)), [photo] * count, **how
            ).descriptors
            tell("described", found)
            queries = found[:QUERIES].copy()
            positives = [np.array([count - 1])] * QUERIES  # which are not found: all is measured
            best_positives(queries, found, positives, *Index(found).search(queries, 20))
            tell("searched", found)
            np.save(Path(folder, "descriptors.npy"), found)
            tell("written", found)

        def tell(stage: str, descriptors: np.ndarray) -> None:
            if len(descriptors) == images:
                taken = peak_bytes() - before
                copies = taken / descriptors.nbytes
                print(f"{stage}: {taken / 1e9:.2f} GB more, {copies:.2f} copies", flush=True)

        before = 0
        run(1000)  # what compiling and threads take
        before = peak_bytes()
        print(f"before: {before / 1e9:.2f} GB")
        run(images)


def peak_bytes() -> int:
    """What this process took at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    tyro.cli(main)
