"""Compiled programs, kept from one command to the next, and their memory, from call to call."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import jax

from mixvpr_jax.errors import InputError
from mixvpr_jax.released import cache_folder

LIMIT_BYTES = 2 * 2**30  # of all programs
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_programs() -> None:
    """Caches compiled programs in the user's cache folder, unless JAX already has a cache.

    For commands: no import does this. Where the folder cannot be written, nothing is kept.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:  # also JAX_COMPILATION_CACHE_DIR
        return
    try:
        folder = cache_folder() / "programs" / _processor()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return
        evict(folder.parent, LIMIT_BYTES)
    except (OSError, InputError):
        return
    # Of a full disk, or a file that a killed process left: JAX compiles as without a cache.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many are small


def keep_memory() -> None:
    """Keeps the memory of a CPU's programs from one call to the next: 0.82 of a step's time.

    Otherwise glibc returns a large block (1.4 GB in a step of 16 images) to the kernel, which
    clears each page when it is touched again. For commands, and for programs that the main thread
    runs: other threads' blocks go back all the same.
    """
    if jax.default_backend() == "cpu":
        _call_glibc("mallopt", M_MMAP_MAX, 0)
        _call_glibc("mallopt", M_TRIM_THRESHOLD, -1)


def trim_memory() -> None:
    """Returns free memory to the kernel, such as the rest of a block that small arrays split."""
    _call_glibc("malloc_trim", 0)


def _call_glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            getattr(ctypes.CDLL(None), name)(*arguments)


def evict(root: Path, limit_bytes: int) -> None:
    """Removes the programs that were read longest ago, until the rest is within the limit.

    JAX's own limit (jax_compilation_cache_max_size) fails where a killed process left a program
    without its time.
    """
    found = []
    for file in root.glob("*/*-cache"):
        with suppress(OSError):  # another process removed it
            status = file.stat()
            found.append((max(status.st_atime, status.st_mtime), status.st_size, file))
    total = 0
    for _, size, file in sorted(found, reverse=True):
        total += size
        if total > limit_bytes:
            with suppress(OSError):
                file.unlink()


def _processor() -> str:
    """A name for this kind of processor: XLA's programs for another may crash here."""
    found = f"{platform.machine()} {platform.processor()}"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = ("model name", "flags", "Features", "CPU part")
        found += "".join(sorted({line for line in lines if line.startswith(named)}))
    return hashlib.sha256(found.encode()).hexdigest()[:16]
