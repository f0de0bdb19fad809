"""A disk that fails: files below a folder cannot be read once so many have been."""

import builtins
import errno
import io
import os

OPEN = io.open
FOLDER = os.environ.get("READS_FAIL_BELOW", "\0")
LEFT = [int(os.environ.get("READS_FAIL_AFTER", "0"))]


def failing_open(file, mode="r", *arguments, **options):
    if isinstance(file, str | os.PathLike) and "r" in mode and os.fspath(file).startswith(FOLDER):
        LEFT[0] -= 1
        if LEFT[0] < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(file))
    return OPEN(file, mode, *arguments, **options)


builtins.open = io.open = failing_open
