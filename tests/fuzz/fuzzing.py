"""What every campaign shares: how many inputs there are, and what must hold for each.

Whatever a file says, its reader gives a value or one line, runs nothing, opens nothing outside of
its folder, and takes no more memory than is stated.
"""

import logging
import os
import resource
import sys
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, settings

from mixvpr_jax.errors import InputError

INPUTS = int(os.environ.get("FUZZ_INPUTS", "0"))  # of each campaign; 0 is the short form
SEEDS = Path(__file__).parent / "seeds"
MEBIBYTE = 2**20

# What SECURITY.md promises: so many times a file's size in memory, and 32 MiB.
TIMES = {".ckpt": 8, ".safetensors": 8, ".npy": 300, ".mat": 16, ".csv": 200, ".json": 100}
PICKLE_TIMES, PIXEL_BYTES, BESIDES = 250, 24, 32 * MEBIBYTE


def campaign(short):
    """Settings of a campaign: so many inputs in `make test`, FUZZ_INPUTS in `make fuzz`."""
    return settings(
        max_examples=INPUTS or short,
        derandomize=not INPUTS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def kept_seeds(*suffixes):
    """Files that a reader once stumbled over: their contents, by name."""
    files = sorted(file for file in SEEDS.iterdir() if file.suffix in suffixes)
    return {file.name: file.read_bytes() for file in files}


def allowed(content, suffix):
    """The bytes that a reader may take for a file."""
    return BESIDES + TIMES[suffix] * len(content)


def line_of(read, *arguments, memory=BESIDES, inside=None):
    """The one line that a reader refuses something with; None where it reads it.

    Args:
        read: The reader.
        arguments: What it is given.
        memory: Bytes that it may take, at the most.
        inside: The one folder where it may open files, besides those of Python itself.
    """
    try:
        with _watched(inside), _within(memory), _as_users_see_it():
            read(*arguments)
    except InputError as error:
        line = str(error)
        assert line.isprintable(), f"more than a line, or marks that steer a terminal: {line!r}"
        assert not _ran_out_of_memory(error), f"memory was asked for that is not there: {line}"
        return line
    return None


@contextmanager
def _as_users_see_it():
    """Warnings end no run, as they end a test; NumPy's are of values that went wrong."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", category=RuntimeWarning, module="mixvpr_jax|numpy")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _ran_out_of_memory(error):
    """Whether a MemoryError, or PyTorch's own, hides behind an error."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


# Memory -----------------------------------------------------------------------------------------

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def _within(allowed):
    """Fails where the process grows by more; lets it grow by four times as much, no further."""
    before = _reset_peak()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = _status("VmSize")
    if in_use:
        limit = in_use + max(4 * allowed, 1024 * MEBIBYTE)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    taken = _peak() - before
    assert taken <= allowed, f"{taken / MEBIBYTE:.0f} MiB where {allowed / MEBIBYTE:.0f} may be"


def _reset_peak():
    """The memory in use, where the peak then starts; without a /proc, the peak so far."""
    if not _CLEAR.exists():
        return _peak()
    _CLEAR.write_text("5")
    return _status("VmRSS")


def _peak():
    if _STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name):
    """Bytes that the kernel counts under a name; 0 where it does not tell."""
    if not _STATUS.exists():
        return 0
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


# What is opened and run -------------------------------------------------------------------------

_RUNS = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"}
_RUNS |= {"pickle.find_class", "ctypes.dlopen"}
_READS = {"open", "os.listdir", "os.scandir"}
_PYTHON = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix, Path(__file__).parents[2])]
_KERNEL = [Path(p) for p in ("/proc", "/sys", "/dev")]
_watch: list[tuple[Path | None, list[str]]] = []  # one that is on, or none


def _hook(event, arguments):
    if not _watch:
        return
    folder, found = _watch[-1]
    if event in _RUNS:
        found.append(f"{event} {arguments!r:.200}")
    elif event in _READS and folder and isinstance(arguments[0], str | bytes | os.PathLike):
        real = Path(os.path.realpath(os.fsdecode(arguments[0])))
        if not any(map(real.is_relative_to, (folder, *_PYTHON, *_KERNEL))):
            found.append(f"{event} {real}")


@contextmanager
def _watched(inside):
    """Fails where a program starts, a pickle looks for a name, or a file elsewhere is opened."""
    found = []
    _add_hook()
    _watch.append((inside and Path(os.path.realpath(inside)), found))
    try:
        yield
    finally:
        _watch.pop()
        assert not found, found


@cache
def _add_hook():
    sys.addaudithook(_hook)  # which cannot be taken back
