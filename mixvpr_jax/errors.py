"""What a user can mend, in one line; and how a command ends, whatever ends it.

Exit status 2 is an error that one line explains, 130 is Ctrl-C, 143 SIGTERM, 141 a closed pipe;
1 comes with a traceback and is a fault of this code.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWICE_SECONDS = 1.0  # a signal that comes again sooner is the same: timeout(1) sends it twice
MEMORY = "take smaller batches, or a machine with more of it"


class InputError(Exception):
    """Wrong input, in one line: what was expected, what was found, what to do.

    Attributes:
        details: What a list is wanted of, a line each; a command writes it before the one line.
    """

    def __init__(self, message: str, *, details: Sequence[str] = ()) -> None:
        """The line, and what it counts."""
        super().__init__(one_line(message))
        self.details = tuple(map(one_line, details))


class Terminated(KeyboardInterrupt):
    """SIGTERM: unwinds the command as Ctrl-C does."""


def one_line(text: str) -> str:
    r"""Text with `\n`, `\x1b` and their like spelt out: names in files may hold any of them."""
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)


@contextmanager
def starting(name: str = "__main__") -> Iterator[None]:
    """Wraps a command's imports, which take seconds: whatever ends them ends in one line.

    Args:
        name: `__name__` of the command's module; nothing happens where it is merely imported.
    """
    if name != "__main__":
        yield
        return
    for number in SIGNALS:
        signal.signal(number, _end_now)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names in another encoding
    logging.raiseExceptions = False  # a message that nobody reads any more is no error
    with _explained():
        yield


def run_command(command: Callable[[], None]) -> None:
    """Runs a command; all but faults of this code end it with one line and an exit status."""
    with _explained(), _signals_raised():
        command()
        if sys.stdout is not None:
            sys.stdout.flush()


def explain(error: BaseException) -> tuple[int, str] | None:
    """Exit status and the line to write; None for a fault of this code, which a traceback shows."""
    if isinstance(error, KeyboardInterrupt):
        return (143, "terminated") if isinstance(error, Terminated) else (130, "interrupted")
    if isinstance(error, BrokenPipeError) and _is_stdout_closed():
        return 141, ""  # as of every command before `| head`
    if isinstance(error, OSError) and error.filename is None and error.errno == errno.ENOSPC:
        return 2, f"error: expected room for the output of this command, found: {error.strerror}"
    if isinstance(error, InputError | OSError):
        return 2, f"error: {_joined(error)}"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return 2, f"error: expected enough memory, found too little ({_joined(error)}); {MEMORY}"
    if (line := platform_error()) is not None:
        return 2, f"error: {line}"
    return None


def platform_error() -> str | None:
    """What keeps JAX from the devices that JAX_PLATFORMS asks for, in a line; None if nothing."""
    if (jax := sys.modules.get("jax")) is None or not (wanted := jax.config.jax_platforms):
        return None
    try:
        jax.devices()
    except Exception as error:  # RuntimeError, or AssertionError without a word
        found = _joined(str(error) or "none").partition(" (set JAX_PLATFORMS")[0]
        return (
            f"JAX_PLATFORMS={wanted}: expected devices that JAX can use here, found: {found}; "
            "install JAX for them, or unset JAX_PLATFORMS to take what is there"
        )
    return None


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) or (found := explain(error)) is None:
            raise
        status, line = found
        for text in (*getattr(error, "details", ()), *filter(None, [line])):
            _say(text)
        _flush_for_the_last_time()
        sys.exit(status)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Around imports: Ctrl-C and SIGTERM end the process there; some swallow an exception."""
    with _handled_by(_end_now):
        yield


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Ctrl-C and SIGTERM as exceptions, so that nothing half-written is left."""
    first: float | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = time.monotonic()
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if time.monotonic() - first > TWICE_SECONDS:  # it was too slow for somebody
            _end_now(number, frame)

    with _handled_by(interrupt):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, found in before.items():
            signal.signal(number, found or signal.SIG_DFL)


def _end_now(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    status, line = (143, "terminated") if number == signal.SIGTERM else (130, "interrupted")
    _say(line)
    os._exit(status)


def _flush_for_the_last_time() -> None:
    """What cannot be written is given up: Python would try again at exit, and tell of it."""
    try:
        sys.stdout.flush()
    except (AttributeError, ValueError):
        return
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    with suppress(OSError, AttributeError):  # a closed stderr
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _joined(error: Any) -> str:
    """An error's text, whatever other libraries put into it; its type where there is none."""
    return one_line(" ".join(str(error).split())) or type(error).__name__


def _is_stdout_closed() -> bool:
    """Whether nobody reads this process's output any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no such file, or no poll on this system
        return False
