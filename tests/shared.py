"""What is made once in a test session, however many workers it has."""

import fcntl
import os
import pickle
import shutil


def once(tmp_path_factory, name, make):
    """What `make(folder)` returns: made by the first worker that asks, read by the others.

    Nobody may change what lies in the folder; the value must pickle.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, made = root / name, root / f"{name}.pickle"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            value = make(folder)
            made.write_bytes(pickle.dumps(value))
        return pickle.loads(made.read_bytes())
