"""How many processes or threads decode images."""

from __future__ import annotations

import os

MAX_WORKERS = 8  # decode some 7,000 images a second, more than any one accelerator trains on


def default_num_workers() -> int:
    """Processes for the processors at hand; 0 where these are few.

    Threads are what measured faster (benchmarks/README.md), but Python's lock lets a few of them
    work at once only.
    """
    processors = num_processors()
    return 0 if processors < 8 else min(processors - 2, MAX_WORKERS)


def num_processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
