"""What is made once in a test session, however many workers it has."""

import fcntl
import os
import pickle
import shutil
import traceback


def once(tmp_path_factory, name, make):
    """What `make(folder)` returns: made by the first worker that asks, read by the others.

    Where it fails, it fails for all of them. Nobody may change the folder; the value must pickle.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, made = root / name, root / f"{name}.pickle"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
            folder.mkdir()
            try:
                outcome = make(folder), None
            except Exception:
                outcome = None, traceback.format_exc()
            temporary = made.with_suffix(".tmp")
            temporary.write_bytes(pickle.dumps(outcome))
            temporary.replace(made)
    value, failure = pickle.loads(made.read_bytes())
    assert failure is None, f"{name}: {failure}"
    return value
