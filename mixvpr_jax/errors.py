"""The one exception for what a user can mend, and how a command reports it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


class InputError(Exception):
    """Wrong input, in one line: what was expected, what was found, what to do.

    Attributes:
        details: What a list is wanted of, a line each; a command writes it before the one line.
    """

    def __init__(self, message: str, *, details: Sequence[str] = ()) -> None:
        """The line, and what it counts."""
        super().__init__(one_line(message))
        self.details = tuple(map(one_line, details))


def one_line(text: str) -> str:
    r"""Text with `\n`, `\x1b` and their like spelt out: names in files may hold any of them."""
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)


def run_command(command: Callable[[], None]) -> None:
    """Runs a command; wrong input and failing disks end it with one line and exit status 2."""
    try:
        command()
    except (InputError, OSError) as error:
        for detail in getattr(error, "details", ()):
            sys.stderr.write(f"{detail}\n")
        line = " ".join(str(error).split())  # whatever other libraries put into it
        sys.stderr.write(f"error: {one_line(line)}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
