"""Workers that decode images: how many, and how they start."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

# What workers share is left to Python's resource tracker, as commands end by `os._exit`.
QUIET = "ignore:resource_tracker:UserWarning"
MAX_WORKERS = 8  # on sixteen cores, eight decode more images a second than fourteen


def default_num_workers(most: int = MAX_WORKERS) -> int:
    """Worker processes for the available processors; 0 (threads) below eight.

    Threads are faster on two cores, processes on sixteen (benchmarks/README.md).
    """
    processors = num_processors()
    return 0 if processors < 8 else min(processors - 2, most)


def num_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def out_of_reach_of_ctrl_c() -> Iterator[None]:
    """Starts processes that ignore the terminal's Ctrl-C: they inherit the blocked signal."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if QUIET not in sys.warnoptions:  # which the tracker's process takes over
        sys.warnoptions.append(QUIET)
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
