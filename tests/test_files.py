"""Files and folders that appear whole or not at all, whoever writes at the same time."""

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from runs import ROOT

from mixvpr_jax import storage
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AppearedMeanwhile, as_path, atomic_folder, atomic_write
from mixvpr_jax.writable import require_writable

WRITER = """
import sys, time
from pathlib import Path
from mixvpr_jax.storage import atomic_write, atomic_folder

with {kind}(Path(sys.argv[1])) as temporary:
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def looks_again(monkeypatch):
    """As in a new process."""
    storage._remove_dead.cache_clear()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_is_applied_and_left_alone(umask, tmp_path, monkeypatch):
    changed, before = [], os.umask(umask)
    try:
        monkeypatch.setattr(os, "umask", changed.append)
        with atomic_write(tmp_path / "file") as temporary:
            temporary.write_text("")
        with atomic_folder(tmp_path / "new") as temporary:
            (temporary / "file").write_text("")
        (tmp_path / "old").mkdir()
        with atomic_folder(tmp_path / "old") as temporary:
            (temporary / "file").write_text("")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert changed == []
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "new")}
    assert modes == {"file": 0o666 & ~umask, "new": 0o777 & ~umask}
    for folder in ("new", "old"):
        file = tmp_path / folder / "file"
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


def test_writers_of_the_same_file_do_not_meet(tmp_path):
    """Threads of one process; containers, each of whose processes has the number 1."""
    path, failed = tmp_path / "file", []

    def write(number):
        try:
            for _ in range(20):
                with atomic_write(path) as temporary:
                    temporary.write_text(str(number))
                    time.sleep(0.001)
                    assert temporary.read_text() == str(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["atomic_write", "atomic_folder"])
def test_what_a_killed_writer_left_is_removed(kind, tmp_path):
    target = tmp_path / "deep" / "target"
    code = WRITER.format(kind=kind)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    (left,) = names(target.parent)
    own = [".notes.partial", ".target.0123.partial", "target.0123456789abcdef.partial"]
    for name in own:  # a user's
        (target.parent / name).mkdir()
        (target.parent / name / "lock").write_text("")
    with atomic_write(target.parent / "other") as temporary:
        temporary.write_text("")
    assert left in names(target.parent)  # it is at work
    process.kill()
    process.communicate()
    storage._remove_dead.cache_clear()
    with atomic_write(target.parent / "other") as temporary:
        temporary.write_text("")
    assert names(target.parent) == sorted([*own, "other"])


def test_what_another_machine_left_stays_for_a_week(tmp_path):
    """On some network disks it would seem dead here."""
    left = tmp_path / ".file.0123456789abcdef.partial"
    left.mkdir()
    (left / "lock").write_text("another machine")
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("")
    assert left.exists()
    os.utime(left, (time.time() - 8 * 86400,) * 2)
    storage._remove_dead.cache_clear()
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("")
    assert names(tmp_path) == ["file"]


def test_without_the_kernels_locks_nothing_is_taken_for_dead(tmp_path, monkeypatch):
    left = tmp_path / ".file.0123456789abcdef.partial"
    left.mkdir()
    (left / "lock").write_text("")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("")
    assert names(tmp_path) == [left.name, "file"]


@pytest.mark.parametrize("write", [atomic_write, atomic_folder])
def test_a_failure_leaves_nothing(write, tmp_path):
    with pytest.raises(ValueError), write(tmp_path / "target") as temporary:
        if write is atomic_write:
            temporary.write_text("half")
        raise ValueError
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["n" * 240, "ü" * 120, "[a]*?", "a\nb"])
def test_names_of_every_kind(name, tmp_path):
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("whole")
    with atomic_folder(tmp_path / "folder" / name) as temporary:
        (temporary / "file").write_text("whole")
    assert (tmp_path / name).read_text() == "whole"
    assert names(tmp_path / "folder" / name) == ["file"]


def test_a_folder_that_another_process_has_made(tmp_path):
    with (
        pytest.raises(AppearedMeanwhile, match="found one that another process has made meanwhi"),
        atomic_folder(tmp_path / "folder") as temporary,
    ):
        (temporary / "file").write_text("mine")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").write_text("theirs")
    assert (tmp_path / "folder" / "file").read_text() == "theirs"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        OSError("1024 requested and 0 written"),  # NumPy
        RuntimeError("write error in f: 0 != 1 (No space left on device)"),  # FAISS
    ],
    ids=str,
)
@pytest.mark.parametrize("write", [atomic_write, atomic_folder])
def test_a_full_disk_is_named(write, error, tmp_path):
    line = f"{tmp_path}/target: expected room on the disk, found: .*; make room, and give the same"
    with pytest.raises(InputError, match=line), write(tmp_path / "target"):
        raise error


def test_other_errors_are_raised_as_they_are(tmp_path):
    with pytest.raises(OSError, match="Input/output error"), atomic_write(tmp_path / "target"):
        raise OSError(errno.EIO, "Input/output error")


def test_homes_are_found_and_nothing_is_no_folder(monkeypatch, tmp_path):
    """The shell expands no ~ behind --output=, and leaves "" of a variable that is not set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/run") == tmp_path / "run"
    assert as_path("./~/run") == Path("~/run")
    with pytest.raises(InputError, match="expected a path or gs://bucket/folder, found nothing"):
        as_path("")


@pytest.mark.parametrize("name", ["link", "link/new"])
def test_links_that_lead_nowhere_are_no_folders(name, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    line = f"{tmp_path}/{name}: expected a folder to write, found a link to {tmp_path}/nowhere, "
    with pytest.raises(InputError, match=line):
        require_writable(tmp_path / name, "the results")
    (tmp_path / "nowhere").mkdir()
    require_writable(tmp_path / name, "the results")


@pytest.mark.parametrize(
    "address", ["GS://bucket/run", "S3://b/x", "s3://b/x", "gs:/bucket/run", "https://host.a/x"]
)
def test_addresses_of_unknown_kind_are_no_folders(address):
    with pytest.raises(InputError, match=f"expected a path or gs://bucket/folder, found {address}"):
        as_path(address)
