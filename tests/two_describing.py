"""One of two processes that describe images together: two_describing.py OUT IMAGES PROCESS_ID."""

import sys
from pathlib import Path

import jax
import numpy as np
from test_descriptors import Counting, described, numbers

from mixvpr_jax import InputError, distributed
from mixvpr_jax.evaluation import describe

jax.config.update("jax_platforms", "cpu")


def rows_of(process_id):
    return 3 if process_id else 2**31 + 5


def main(out, images, process_id):
    from two_processes import meet

    meet(out, process_id)
    describe.ROWS_PER_CHUNK = 4
    counting = Counting()
    paths = sorted(images.iterdir())
    whole = described(paths, counting)
    if process_id == 0:
        (out / "broken.jpg").write_bytes(b"no image")
    try:  # which the second process alone sees
        described([*paths[:8], out / "broken.jpg"])
        error = ""
    except InputError as caught:
        error = str(caught)
    batches = counting.batches
    counts = [len(some) for some in distributed.gather(np.zeros((rows_of(process_id), 0)))]
    distributed.PIECE_BYTES = 24  # so that arrays travel in several
    gathered = {
        name: np.concatenate(distributed.gather(array))
        for name, array in numbers(process_id).items()
    }
    np.savez(
        out / f"{process_id}.npz",
        descriptors=whole.descriptors,
        num_turned=whole.num_turned,
        batches=batches,
        error=error,
        counts=counts,
        **gathered,
    )
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
