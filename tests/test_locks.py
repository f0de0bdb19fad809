"""One writer to a folder: on a disk, where the kernel cannot tell, and in an object store."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from runs import ROOT, command, finish, has_reached, start, tiny_config

from mixvpr_jax import locks
from mixvpr_jax.errors import InputError
from mixvpr_jax.locks import locked
from mixvpr_jax.storage import MACHINE, Flock
from mixvpr_jax.training.loop import train

HOLDER = """
import sys, time
from mixvpr_jax.locks import locked
from mixvpr_jax.storage import as_path

with locked(as_path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""
IN_USE = r"expected no other run here, found one of \S+@\S+ \(pid \d+, since 20.* UTC\); wait until"


@pytest.fixture(params=["disk", "network disk", "store"])
def folder(request, tmp_path, monkeypatch):
    """A folder where the kernel tells whether an owner lives; two where it cannot."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(locks, "DEAD_SECONDS", 1.0)
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.05)
    if request.param == "store":
        return request.getfixturevalue("bucket") / "run"
    if request.param == "network disk":

        def refuse(*_):
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr("fcntl.flock", refuse)
    return tmp_path / "deep" / "run"


def test_a_second_one_is_refused_until_the_first_ends(folder):
    with locked(folder, "run") as first:
        for _ in range(2):
            with pytest.raises(InputError, match=IN_USE), locked(folder, "run"):
                pass
        first.require()
    with locked(folder, "run"):
        pass
    assert not folder.exists()
    assert not folder.parent.exists() or "://" in str(folder)


def test_the_lock_of_another_user(tmp_path, monkeypatch):
    """Of a folder that a group shares; its file cannot be opened for writing."""
    opened = os.open

    def as_another(path, flags, *mode):
        if flags & os.O_RDWR and not flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, flags, *mode)

    with locked(tmp_path / "run", "run"):
        (tmp_path / "run" / "file").write_text("")
        monkeypatch.setattr(os, "open", as_another)
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(InputError, match=IN_USE), locked(tmp_path / "run", "run"):
            pass
    (tmp_path / "run" / ".lock").write_text(f"{MACHINE}\nann@gpu7 (pid 12, since then)\ntoken")
    with locked(tmp_path / "run", "run") as mine:
        mine.require()


def test_what_is_written_stays(tmp_path):
    with locked(tmp_path / "deep" / "run", "run"):
        (tmp_path / "deep" / "run" / "file").write_text("")
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == ["file"]


ANOTHER = "another machine\nann@gpu7 (pid 12, since then)\ntoken"


@pytest.mark.parametrize("text", [ANOTHER, "", "{", "\n" * 4000, "\x1b[2J\n\x1b[2J"])
def test_an_owner_that_gives_no_sign_of_life_is_dead(text, folder):
    if "://" not in str(folder):
        folder.mkdir(parents=True)
    (folder / ".lock").write_text(text)
    with locked(folder, "run") as lock:
        lock.require()
        assert f"(pid {os.getpid()}, since " in (folder / ".lock").read_text()


def test_an_owner_elsewhere_that_lives(folder):
    """Another machine's, of whose locks this kernel knows nothing."""
    if "://" not in str(folder):
        folder.mkdir(parents=True)
    done = threading.Event()

    def live():
        beat = 0
        while not done.wait(0.2):
            beat += 1
            if "://" in str(folder):
                (folder / ".lock").write_text(f"{ANOTHER}\n{beat}")
            else:
                os.utime(folder / ".lock")

    (folder / ".lock").write_text(ANOTHER)
    thread = threading.Thread(target=live)
    thread.start()
    try:
        line = r"found one of ann@gpu7 \(pid 12, since then\); wait until it ends"
        with pytest.raises(InputError, match=line), locked(folder, "run"):
            pass
    finally:
        done.set()
        thread.join()


def test_one_that_was_taken_for_dead_stops(folder):
    with locked(folder, "run") as lock:
        lock.require()
        beat = "\n1" if "://" in str(folder) else ""
        (folder / ".lock").write_text(ANOTHER + beat)
        time.sleep(0.5)
        with pytest.raises(InputError, match=r"found that ann@gpu7 \(pid 12, since then\) took ov"):
            lock.require()
    assert (folder / ".lock").exists()  # the other's


def test_many_at_once(folder):
    """However they meet, one at a time has it."""
    inside, most, refused = 0, 0, []

    def take():
        nonlocal inside, most
        try:
            with locked(folder, "run"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.3)
                inside -= 1
        except InputError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert len(refused) <= 3


def test_a_folder_that_another_process_removes_meanwhile(tmp_path, monkeypatch):
    """As it does with its own when it ends, if nothing was written."""
    create, folder = Flock.create, tmp_path / "run"

    def removed(path, text):
        monkeypatch.setattr(Flock, "create", create)
        path.parent.rmdir()
        return create(path, text)

    monkeypatch.setattr(Flock, "create", removed)
    with locked(folder, "run"):
        assert (folder / ".lock").exists()
    assert not folder.exists()


def test_a_killed_owner_lets_go_at_once(tmp_path):
    """On a disk; with no other wait than the kernel's."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=IN_USE), locked(tmp_path / "run", "run"):
        pass
    process.kill()
    process.communicate()
    since = time.monotonic()
    with locked(tmp_path / "run", "run"):
        assert time.monotonic() - since < 1


def test_the_same_command_twice(town, tmp_path):
    """The second one reads and removes nothing of the first one's; the first one goes on."""
    process = start(command(town, tmp_path / "run"))
    while not has_reached(tmp_path / "run", 1):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)  # or it may end before the second one has started
    status, output, errors = finish(start(command(town, tmp_path / "run")))
    process.send_signal(signal.SIGCONT)
    assert (status, output) == (2, "")
    assert errors.startswith(f"error: {tmp_path}/run: expected no other run here, found one of ")
    assert f"(pid {process.pid}, since " in errors
    assert errors.count("\n") == 1
    status, _, errors = finish(process)
    assert status == 0, errors
    assert not (tmp_path / "run" / ".lock").exists()
    assert not (tmp_path / "run" / "damaged_checkpoints").exists()


def test_a_run_in_a_store_takes_its_lock(town, bucket):
    with locked(bucket / "run", "run"), pytest.raises(InputError, match=IN_USE):
        train(tiny_config(town), bucket / "run")
