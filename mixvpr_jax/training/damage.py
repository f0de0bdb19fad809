"""Tells a damaged checkpoint from one that this machine cannot read just now.

Damage is a checksum that differs, a file that is missing or cut short, content that cannot be
decoded. The rest (open files, memory, permissions, a failing disk) can be mended.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mixvpr_jax.storage import AnyPath

# What reading raises if a file is not what was written …
_OF_CONTENT = (ValueError, TypeError, LookupError, AttributeError, EOFError, RecursionError)
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# … and if the machine fails, besides errors with a number.
_OF_MACHINE = (MemoryError, TimeoutError, ConnectionError)
_STATUS = re.compile(
    "RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|ABORTED"
)
_SYSTEM = re.compile(r"os_error_code='(\d+)'")  # as tensorstore writes the number


def of_machine(error: BaseException, *, reading: bool = False) -> str | None:
    """The machine's fault in a line; None if the content of files is at fault.

    Args:
        error: What was raised; its causes count too, as libraries wrap the system's errors.
        reading: Then a missing file is missing content, and an unknown error is the machine's.
    """
    known, cause = False, error
    while cause is not None:
        text, told = str(cause), cause
        if found := _SYSTEM.search(text):
            told = OSError(int(found[1]), os.strerror(int(found[1])))  # of the number's own class
        missing = reading and isinstance(told, _MISSING)
        if isinstance(told, OSError) and told.strerror and not missing:
            return told.strerror
        if isinstance(told, _OF_MACHINE) or _STATUS.match(text):
            return in_a_line(cause)
        known |= missing or isinstance(cause, _OF_CONTENT)
        cause = cause.__cause__ or cause.__context__
    if reading:
        return None if known else in_a_line(error)
    return in_a_line(error) if isinstance(error, OSError) else None


def unreadable(folder: AnyPath) -> str | None:
    """Why this machine cannot read existing files, which libraries take for missing."""
    if not isinstance(folder, Path):
        return None

    def fail(error: OSError) -> None:
        raise error

    try:
        for at, _, names in os.walk(folder, onerror=fail):
            for path in (Path(at, name) for name in names):
                if path.is_file():
                    with path.open("rb") as file:
                        while file.read(2**20):
                            pass
    except OSError as error:
        return of_machine(error, reading=True)
    return None


def checksums(arrays: Mapping[str, jax.Array], position: Mapping[str, Any]) -> dict[str, str]:
    """The CRC-32 of each array's bytes by name, and of the position."""
    parts = {
        name: np.ascontiguousarray(array).tobytes()
        for name, array in jax.device_get(dict(arrays)).items()
    }
    parts["position"] = json.dumps(position, sort_keys=True).encode()
    return {name: f"{zlib.crc32(part):08x}" for name, part in parts.items()}


def difference(saved: Mapping[str, str], found: Mapping[str, str]) -> str:
    """What differs from what was saved, in a line; "" if nothing does."""
    other = [name for name, checksum in found.items() if saved.get(name) != checksum]
    return f"{', '.join(other[:3])}: not what was saved" if other else ""


def in_a_line(error: BaseException) -> str:
    """An error's message in a line, or its class if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
