"""One of two processes that describe images together: two_describing.py OUT IMAGES PROCESS_ID."""

import sys
from pathlib import Path

import jax
import numpy as np
from test_descriptors import Counting, described

from mixvpr_jax import InputError
from mixvpr_jax.evaluation import descriptors

jax.config.update("jax_platforms", "cpu")


def main(out, images, process_id):
    from two_processes import meet

    meet(out, process_id)
    descriptors.ROWS_PER_CHUNK = 4
    counting = Counting()
    paths = sorted(images.iterdir())
    found = described(paths, counting).descriptors
    if process_id == 0:
        (out / "broken.jpg").write_bytes(b"no image")
    try:  # which the second process alone sees
        described([*paths[:8], out / "broken.jpg"])
        error = ""
    except InputError as caught:
        error = str(caught)
    batches = counting.batches
    np.savez(out / f"{process_id}.npz", descriptors=found, batches=batches, error=error)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
