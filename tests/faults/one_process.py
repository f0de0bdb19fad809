"""What happens to a run of one process on real machines, one fault a function.

Each starts a run, lets one thing go wrong at a random moment, checks how the command ended, and
returns that in a few words. The same command must then go on to the same model.
"""

import os
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from bench import Bench, check_model, ended, evaluation, goes_on, told_in_a_line
from runs import start

CLOCK = Path(__file__).parent / "clock"


def killed(bench: Bench) -> str:
    """SIGKILL at any moment: imports, the first compile, a step, a save, validation."""
    process = bench.start()
    bench.sleep()
    process.kill()
    process.communicate()
    return "killed"


def killed_while_saving(bench: Bench) -> str:
    """SIGKILL while a checkpoint is being written."""
    process = bench.start()
    bench.wait_for_save(process)
    process.kill()
    process.communicate()
    return "killed"


def asked_to_stop(bench: Bench) -> str:
    """SIGTERM at any moment."""
    process = bench.start()
    bench.sleep()
    process.send_signal(signal.SIGTERM)
    status, line = ended(process)
    assert status in (0, -signal.SIGTERM), (status, line)
    return "saved" if status == 0 else "ended before it began"


def damaged_checkpoint(bench: Bench) -> str:
    """A file of the last checkpoint is cut short, or one of its bits turns."""
    process = bench.start()
    bench.wait_for_step(process, bench.random.randrange(5, 9))
    process.send_signal(signal.SIGTERM)
    ended(process)
    steps = (bench.workdir / "checkpoints").iterdir()
    last = max((path for path in steps if path.name.isdigit()), key=lambda path: int(path.name))
    files = sorted(path for path in last.rglob("*") if path.is_file() and path.stat().st_size)
    chosen = bench.random.choice(files)
    data = bytearray(chosen.read_bytes())
    at = bench.random.randrange(len(data))
    if bench.random.random() < 0.5:
        chosen.write_bytes(data[:at])
    else:
        data[at] ^= 1 << bench.random.randrange(8)
        chosen.write_bytes(data)
    output = goes_on(bench)
    return "the one before was taken" if "going on from the one before" in output else "no effect"


def broken_image(bench: Bench) -> str:
    """Images vanish, or are cut short, while the run reads them."""
    pictures = sorted(bench.images.rglob("*.jpg"))
    bad = bench.random.sample(pictures, 8)
    kept = {path: path.read_bytes() for path in bad}
    process = bench.start("--data.max-unreadable", 0)
    bench.sleep()
    for path, data in kept.items():
        if bench.random.random() < 0.5:
            path.unlink()
        else:
            path.write_bytes(data[: len(data) // 2])
    status, line = ended(process)
    for path, data in kept.items():
        path.write_bytes(data)
    return "not met" if status == 0 else told_in_a_line(status, line)


def stalled_worker(bench: Bench) -> str:
    """The process that decodes stops, as on a disk that does not answer."""
    process = bench.start("--data.num-workers", 1, "--data.timeout-seconds", 5)
    bench.wait_for_step(process, bench.some_step())
    for worker in children(process.pid):
        os.kill(worker, signal.SIGSTOP)
    status, line = ended(process)
    return "not met" if status == 0 else told_in_a_line(status, line)


def children(parent: int) -> list[int]:
    """Processes that a process has started and that run Python."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
            spawned = b"spawn_main" in (path.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent and spawned:
            found.append(int(path.parent.name))
    return found


def clock_set_back(bench: Bench) -> str:
    """The clock jumps back by a day in the middle of the run."""
    jump = {"PYTHONPATH": str(CLOCK), "CLOCK_JUMPS_AFTER": str(bench.random.uniform(0, 9))}
    before = {name: os.environ.get(name) for name in jump}
    os.environ.update(jump)
    try:
        process = bench.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    status, line = ended(process)
    assert status == 0, line
    return "no effect"


@contextmanager
def mounted(size: str):
    """A small file system in memory; what `mount` refuses raises CalledProcessError."""
    folder = Path(tempfile.mkdtemp(prefix="small-disk"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def remount(folder: Path, options: str) -> int:
    arguments = ["mount", "-o", f"remount,{options}", folder]
    return subprocess.run(arguments, capture_output=True).returncode


def full_disk(bench: Bench) -> str:
    """The disk of the working folder fills up, at some size or other."""
    with mounted(f"{bench.random.randrange(64, 3000)}k") as disk:
        bench.workdir = disk / "run"
        status, line = ended(bench.start())
        outcome = "not met" if status == 0 else told_in_a_line(status, line)
        remount(disk, "size=1g")
        goes_on(bench)
        check_model(bench)
    return outcome


def read_only_disk(bench: Bench) -> str:
    """A run that was stopped finds its working folder read-only."""
    with mounted("1g") as disk:
        bench.workdir = disk / "run"
        process = bench.start()
        bench.wait_for_step(process, bench.some_step())
        process.send_signal(signal.SIGTERM)
        ended(process)
        assert remount(disk, "ro") == 0
        outcome = told_in_a_line(*ended(bench.start()))
        remount(disk, "rw")
        goes_on(bench)
        check_model(bench)
    return outcome


def killed_evaluation(bench: Bench) -> str:
    """SIGKILL of an evaluation at any moment; the same command gives the same bytes."""
    arguments = evaluation(bench)
    results = []
    for name in ("whole", "again"):
        process = start([*arguments, "--output", bench.workdir / name])
        if name == "again":
            time.sleep(bench.random.uniform(0, bench.seconds))
            process.kill()
            process.communicate()
            assert not (bench.workdir / name / "results.json").exists() or process.returncode == 0
            process = start([*arguments, "--output", bench.workdir / name, "--overwrite"])
        status, line = ended(process)
        assert status == 0, line
        results.append((bench.workdir / name / "predictions.csv").read_bytes())
    assert results[0] == results[1]
    return "killed"


FAULTS = (
    killed,
    killed_while_saving,
    asked_to_stop,
    damaged_checkpoint,
    broken_image,
    stalled_worker,
    clock_set_back,
    full_disk,
    read_only_disk,
    killed_evaluation,
)
