"""Processes and threads that decode images: how many, and how they start."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

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


@contextmanager
def out_of_reach_of_ctrl_c() -> Iterator[None]:
    """Around the start of processes: a terminal's Ctrl-C is for the one that started them.

    From their first instruction on: they inherit which signals wait.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # whose own start would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
