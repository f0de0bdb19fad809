"""Errors that a user can fix, in one line, and the exit status of every command.

2 is an error that one line explains, 130 Ctrl-C, 143 SIGTERM, 141 a closed pipe; 1 is a bug and
comes with a traceback.
"""

from __future__ import annotations

import errno
import gc
import io
import logging
import os
import re
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWICE_SECONDS = 1.0  # a repeat within it is ignored: timeout(1) sends signals twice
MEMORY = "take smaller batches, or a machine with more of it"
_OF_JAX = re.compile(  # as its import refuses a value
    r"JAX flag (\w+)|environment '(JAX_\w+)'|^(jax\.default_device) must"
)
HTML = "an HTML page (a download that was refused); delete it and download again"
_IN_PLACE = {  # how files begin that lie in the place of another, and what they are
    rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html)": HTML,
    rb"\Z": "an empty file",
    rb"version https://git-lfs": "a Git LFS pointer; git lfs pull",
    rb"/annex/objects/": "a pointer of git-annex; git annex get",
    rb"\x1f\x8b|BZh|\xfd7zXZ|(?s:.{257})ustar": "a compressed file or an archive; unpack it",
    rb"(?s:.{4})ftyp(hei|hev|mif1|msf1|avif)": "HEIC or AVIF; convert it to JPEG",
    rb"\x89HDF": "an HDF5 file",
}


class InputError(Exception):
    """Wrong input, in one line: what was expected, what was found, what to do.

    Attributes:
        details: Individual problems, which a command writes before the message, a line each.
    """

    def __init__(self, message: str, *, details: Sequence[str] = ()) -> None:
        super().__init__(one_line(message))
        self.details = tuple(map(one_line, details))


class Terminated(KeyboardInterrupt):
    """SIGTERM: unwinds the command as Ctrl-C does."""


def one_line(text: str) -> str:
    r"""Text with unprintable characters escaped: names in files may hold `\n`, `\x1b` and more."""
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)


@contextmanager
def starting(name: str = "__main__") -> Iterator[None]:
    """Wraps a command's slow imports, so that they, too, end with one line; only in "__main__"."""
    if name != "__main__":
        yield
        return
    _open_streams()
    for number in heeded():
        signal.signal(number, _end_now)
    gc.disable()  # a sixth of the time that imports take
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names in another encoding
    logging.raiseExceptions = False  # a closed stderr is no error
    with _explained():
        yield


def run_command(command: Callable[[], None]) -> None:
    """Runs a command; anything but a bug ends it with one line and an exit status."""
    _open_streams()
    with _explained(), _signals_raised():
        command()
        sys.stdout.flush()


def run_words(
    command: Callable[..., Any], words: list[str], prog: str, description: str | None = None
) -> None:
    """Calls a command with the options in these words; raises InputError for surplus words."""
    with importing():
        import tyro

    @wraps(command)
    def read(*values: Any, **options: Any) -> Callable[[], None]:
        return partial(command, *values, **options)

    how: Any = {"prog": prog, "description": description, "config": (tyro.conf.AvoidSubcommands,)}
    call, surplus = tyro.cli(read, args=words, return_unknown_args=True, **how)
    if any(word.startswith("-") for word in surplus):
        tyro.cli(command, args=words, **how)  # ends with the options that may be meant
    if surplus:
        raise InputError(
            f"{prog}: expected only what --help lists, found {shlex.join(surplus)}; quote "
            "names with spaces, and give several photos as a folder or a list"
        )
    call()


def _open_streams() -> None:
    """Opens a closed stdout or stderr, to nowhere: libraries write to both, or to their numbers."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8", errors="replace"))


def heeded() -> list[signal.Signals]:
    """The signals to handle here: none outside the main thread, and none that a parent ignores."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def explain(error: BaseException) -> tuple[int, str] | None:
    """Exit status and the line to write; None for a bug, which needs a traceback."""
    if isinstance(error, KeyboardInterrupt):
        return (143, "terminated") if isinstance(error, Terminated) else (130, "interrupted")
    if isinstance(error, BrokenPipeError) and _is_stdout_closed():
        return 141, ""  # as other commands do in `… | head`
    if isinstance(error, OSError) and error.filename is None and error.errno == errno.ENOSPC:
        line = f"expected room for the output of this command, found: {error.strerror}"
    elif isinstance(error, InputError | OSError):
        line = text_of(error)
    elif isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        line = f"expected enough memory, found too little ({text_of(error)}); {MEMORY}"
    elif "can't start new thread" in str(error):
        line = "expected to start a thread, found no room for one; raise the limit of processes"
    elif isinstance(error, ValueError) and (found := _OF_JAX.search(str(error))):
        name = found[found.lastindex or 0].upper().replace(".", "_")
        line = f"{name}: expected a value that JAX takes ({text_of(error)}); correct or unset it"
    elif found := re.search(r"Disallowed [\w-]+ transfer", str(error)):
        line = f"JAX_TRANSFER_GUARD: expected arrays to reach devices, found: {found[0]}; unset it"
    else:
        line = platform_error(error)
    return (2, f"error: {line}") if line is not None else None


def platform_error(raised: BaseException | None = None) -> str | None:
    """Why JAX lacks devices, such as those that JAX_PLATFORMS asks for; None if it has them.

    `raised` may be JAX's error: asked again, it takes the CPU of `cpu,tpu` without a word.
    """
    if (jax := sys.modules.get("jax")) is None:
        return None
    config = jax.config
    named = {"JAX_PLATFORMS": config.jax_platforms}
    named["JAX_PLATFORM_NAME"] = config.values.get("jax_platform_name")  # the older variable
    name, wanted = next((each for each in named.items() if each[1]), ("", None))
    of_jax = str(raised).startswith("Unable to initialize backend")
    default = config.jax_default_device  # a text, as its variable gives it, or a device
    if not (wanted or of_jax or isinstance(default, str)):
        return None
    try:
        if raised is not None and of_jax:
            raise raised
        jax.devices()
        if isinstance(default, str):
            name, wanted = "JAX_DEFAULT_DEVICE", default
            jax.devices(default)
        return None
    except Exception as error:  # RuntimeError, or an empty AssertionError
        line = f"expected devices that JAX can use here, found: {text_of(str(error) or 'none')}"
    if not wanted:
        return line  # which says what to do
    line = line.partition(" (set JAX_PLATFORMS")[0]
    return f"{name}={wanted}: {line}; install JAX for them, or unset {name} to take what is there"


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
def extra(name: str, what: str) -> Iterator[None]:
    """Wraps imports of packages that mixvpr-jax[name] installs; `what` says who expected them."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").startswith("mixvpr_jax"):
            raise
        line = f"{what}, found: {error}; pip install 'mixvpr-jax[{name}]'"
        raise InputError(" ".join(line.split())) from None


@contextmanager
def importing() -> Iterator[None]:
    """For a command's imports: Ctrl-C and SIGTERM end the process, as modules swallow exceptions.

    The garbage collector, which `starting` disabled, runs from here on and passes over modules.
    """
    with _handled_by(_end_now):
        yield
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _end_now(number: int, _: FrameType | None) -> NoReturn:
    status, line = (143, "terminated") if number == signal.SIGTERM else (130, "interrupted")
    _say(line)
    os._exit(status)


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raises Ctrl-C and SIGTERM as exceptions, so that temporary files are removed.

    Python ignores what is raised inside a destructor or a callback of its garbage collector; there
    the signal is sent again.
    """
    first: float | None = None
    tell_ignored = sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = time.monotonic()
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if time.monotonic() - first > TWICE_SECONDS:  # the user insists
            _end_now(number, frame)

    def ignored(found: Any) -> None:
        nonlocal first
        if not issubclass(found.exc_type, KeyboardInterrupt):
            tell_ignored(found)
            return
        first = None
        number = signal.SIGTERM if issubclass(found.exc_type, Terminated) else signal.SIGINT
        # Later, as what is raised in this hook would be ignored, too.
        again = threading.Timer(0.1, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    with _handled_by(interrupt):
        sys.unraisablehook = ignored
        try:
            yield
        finally:
            sys.unraisablehook = tell_ignored


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in heeded()}
    try:
        yield
    finally:
        for number, found in before.items():
            signal.signal(number, found or signal.SIG_DFL)


def _flush_for_the_last_time() -> None:
    """Discards output that cannot be written: Python would retry at exit and print an error."""
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


def text_of(error: Any) -> str:
    """An error's text on one line, or its type if it has none."""
    return one_line(" ".join(str(error).split())) or type(error).__name__


def what_else(head: bytes) -> str | None:
    """What lies in the place of weights, an image or a list, by its first 512 bytes."""
    return next((kind for start, kind in _IN_PLACE.items() if re.match(start, head)), None)


def _is_stdout_closed() -> bool:
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no file descriptor, or no poll on this system
        return False
