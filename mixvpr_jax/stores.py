"""Folders on a disk, or in Google's object store: one address for either.

An object appears whole or not at all, and cannot be added to or renamed. What these files do not
touch (arrays of checkpoints, ArrayRecord) is read and written by tensorstore and array_record.
"""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etils import epath

from mixvpr_jax.errors import InputError

AnyPath = epath.Path | Path
"""In an object store, or on a disk."""

# Of what tensorstore says: the store is there no more, or does not let us; retries were in vain.
_UNREACHABLE = re.compile(
    "UNAVAILABLE|PERMISSION_DENIED|UNAUTHENTICATED|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED"
    r"|http_response_code='(401|403|408|429|5\d\d)'"
)


class OutOfReach(InputError):
    """An object store that could not be asked, or that refused."""


def as_path(address: str | os.PathLike[str]) -> AnyPath:
    """A path on a disk, or one in an object store for `gs://bucket/name`.

    Raises:
        InputError: Another kind of address, or the store's library is not installed.
    """
    text = os.fspath(address)
    if not text.startswith("gs://"):
        if re.match(r"[a-z0-9+]{2,}:/", text):
            raise InputError(f"expected a path or gs://bucket/folder, found {text}")
        return Path(text)
    import fsspec.config

    for protocol in ("gs", "gcs"):  # other hosts and libraries write, too: no list may be kept
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    try:
        fsspec.get_filesystem_class("gs")
    except ImportError as error:
        raise InputError(f"{text}: {error}; pip install 'mixvpr-jax[gcs]'") from None
    return epath.Path(text)


def is_local(path: AnyPath) -> bool:
    """Whether a path lies on a disk, not in an object store."""
    return "://" not in os.fspath(path)


def resolved(path: AnyPath) -> AnyPath:
    """The absolute path; an address is one already."""
    return path.resolve() if isinstance(path, Path) else path


@contextmanager
def reaching(path: AnyPath, but: type[Exception] = InputError) -> Iterator[None]:
    """Tells in one line what a store's library says where it cannot do what is asked.

    Args:
        path: What is read or written. Of a disk, what goes wrong is raised as it is.
        but: What is raised as it is in any case.

    Raises:
        OutOfReach: The line.
    """
    try:
        yield
    except (InputError, but):
        raise
    except Exception as error:  # OSError, the library's, HTTP's and the credentials' own
        of_store = isinstance(error, FileNotFoundError) or unreachable(error)
        if is_local(path) or not of_store:
            raise
        raise OutOfReach(
            f"{path}: expected to reach the object store, found: {_in_a_line(error)}; mend it, and "
            "the same command goes on"
        ) from error


def unreachable(error: Exception) -> str | None:
    """What a store's libraries say where it could not be asked, in a line.

    None of anything else, such as an object that is not there, or not what was written.
    """
    line = _in_a_line(error)
    of_library = type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "google")
    of_system = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    of_tensorstore = "gs://" in line and _UNREACHABLE.search(line)
    return line if of_library or of_system or of_tensorstore else None


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_writable(folder: AnyPath) -> None:
    """Writes an object into a folder of a store, and takes it away again.

    Raises:
        OutOfReach: It may not be written there, or the bucket is not there.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    with reaching(folder):
        probe.write_bytes(b"")
        probe.unlink()


@contextmanager
def fetched(file: AnyPath) -> Iterator[Path]:
    """Gives a file on a disk: the one that is meant, or a copy of an object for the time being.

    Raises:
        OutOfReach: The store cannot be reached.
    """
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, file.name)
        with reaching(file):
            copy.write_bytes(file.read_bytes())
        yield copy


def put_file(file: Path, target: AnyPath) -> None:
    """Makes a file on a disk an object of a store.

    Raises:
        OutOfReach: The store cannot be reached.
    """
    with reaching(target):
        target.write_bytes(file.read_bytes())


def move_folder(source: AnyPath, target: AnyPath) -> None:
    """Renames a folder; in a store, one after another of its objects."""
    if isinstance(source, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    import fsspec

    store, path = fsspec.url_to_fs(os.fspath(source))
    with reaching(source):
        for name in store.find(path):
            store.mv(name, os.fspath(target) + name.removeprefix(path))
