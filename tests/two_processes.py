"""One of two processes that take a step together: two_processes.py OUT PROCESS_ID."""

import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from test_parallel import PAIRS
from trajectory import LOSS_AND_MINER, SMALL, batch, padded, start, weights_of

from mixvpr_jax.distributed import AXIS, data_mesh
from mixvpr_jax.training.step import create_state, make_step

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)


def meet(folder, process_id):
    """Starts the runtime; process 0 chooses a free port and says so in a file."""
    import socket

    note = folder / "port"
    if process_id == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "port.new").write_text(str(port))
        (folder / "port.new").rename(note)
    while not note.exists():
        time.sleep(0.05)
    jax.distributed.initialize(f"127.0.0.1:{note.read_text()}", 2, process_id)


def main(out, process_id):
    meet(out.parent, process_id)
    mesh, found = data_mesh(), {}
    everywhere, divided = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    for name, count in PAIRS[:1]:  # the other is on eight devices of one process
        model, optimizer = start()
        step = make_step(model, optimizer, *LOSS_AND_MINER[name], mesh)
        state = jax.device_put(jax.device_get(create_state(model, optimizer)), everywhere)
        half = slice(8 * process_id, 8 * process_id + 8)
        own = [np.asarray(array)[half] for array in padded(batch(3, SMALL), count)]
        parts = [jax.make_array_from_process_local_data(divided, array) for array in own]
        state, metrics = step(state, *parts)
        for entry, value in weights_of(state).items():
            found[f"{name} {count} {entry}"] = value
        for entry, value in metrics.items():
            found[f"{name} {count} ={entry}"] = np.asarray(value)
    if process_id == 0:
        np.savez(out, **found)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
