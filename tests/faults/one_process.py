"""What happens to a run of one process on real machines, one fault a function.

Each starts a run, lets one thing go wrong at a random moment, checks how the command ended, and
returns that in a few words. The same command must then go on to the same model.
"""

import os
import resource
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from bench import Bench, check_model, ended, environment, evaluation, goes_on, told_in_a_line
from runs import start

HERE = Path(__file__).parent


def with_modules(folder: str) -> str:
    """PYTHONPATH with modules of this folder in front, which make libraries fail."""
    return os.pathsep.join(filter(None, (str(HERE / folder), os.environ.get("PYTHONPATH"))))


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
    assert status in (0, 143), (status, line)
    return "saved" if status == 0 else "ended before it began"


def started_twice(bench: Bench) -> str:
    """The same command again while it runs, at any moment: a requeue that overlaps."""
    first = bench.start()
    bench.sleep()
    second = bench.start()
    found = sorted([ended(first), ended(second)])
    statuses = [status for status, _ in found]
    if statuses == [0, 0]:
        return "one after the other"
    assert statuses == [0, 2], found
    assert "expected no other run here, found one of " in found[1][1], found
    assert not (bench.workdir / "damaged_checkpoints").exists()
    return f"one went on, {told_in_a_line(*found[1])} of the other"


def unreadable_disk(bench: Bench) -> str:
    """A run that was stopped finds a disk that gives errors (EIO) where its checkpoints lie."""
    checkpoints = stopped_with_checkpoints(bench)
    failing = {"READS_FAIL_BELOW": checkpoints, "READS_FAIL_AFTER": bench.random.randrange(8)}
    with environment(PYTHONPATH=with_modules("disk"), **failing):
        return resumed_in_vain(bench, checkpoints, bench.start())


def too_few_open_files(bench: Bench) -> str:
    """A stopped run resumes with a low limit of open files (EMFILE)."""
    checkpoints = stopped_with_checkpoints(bench)
    limit = bench.random.randrange(12, 40)

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    return resumed_in_vain(bench, checkpoints, bench.start(preexec_fn=lower))


def stopped_with_checkpoints(bench: Bench) -> Path:
    """The checkpoints of a run that was asked to stop."""
    process = bench.start()
    bench.wait_for_step(process, bench.random.randrange(5, 9))
    process.send_signal(signal.SIGTERM)
    ended(process)
    return bench.workdir / "checkpoints"


def resumed_in_vain(bench: Bench, checkpoints: Path, process: subprocess.Popen[str]) -> str:
    """A fault of the machine is no damage: checkpoints stay as they are."""
    before = {path.name for path in checkpoints.iterdir()}
    status, line = ended(process)
    assert not (bench.workdir / "damaged_checkpoints").exists(), line
    if status == 0:
        return "not met"
    assert before <= {path.name for path in checkpoints.iterdir()}, line
    return told_in_a_line(status, line)


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
    return "the one before was taken" if "restoring the one before" in output else "no effect"


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
    jumps = bench.random.uniform(0, 9)
    with environment(PYTHONPATH=with_modules("clock"), CLOCK_JUMPS_AFTER=jumps):
        process = bench.start()
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
    assert not list(bench.workdir.glob(".*")), "temporary files are left"
    return "killed"


def full_disk_in_evaluation(bench: Bench) -> str:
    """The disk of an evaluation's results fills up, at any of its files."""
    whole = bench.workdir / "whole"
    arguments = [*evaluation(bench), "--overwrite", "--output"]
    assert ended(start([*arguments, whole]))[0] == 0
    needed = sum(file.stat().st_size for file in whole.iterdir())
    with mounted(f"{4 * bench.random.randrange(1, needed // 4096 + 8)}k") as disk:
        status, line = ended(start([*arguments, disk / "out"]))
        if status == 0:
            return "not met"
        outcome = told_in_a_line(status, line)
        assert f"{disk}/out: expected room on the disk, found: " in line, line
        assert not list(disk.iterdir()), list(disk.rglob("*"))
        remount(disk, "size=1g")
        assert ended(start([*arguments, disk / "out"]))[0] == 0
        results = [folder / "predictions.csv" for folder in (whole, disk / "out")]
        assert results[0].read_bytes() == results[1].read_bytes()
    return outcome


def read_only_home(bench: Bench) -> str:
    """The folder of released weights and descriptors may not be written to."""
    arguments = [*evaluation(bench), "--output", bench.workdir / "out"]
    with mounted("1g") as disk:
        assert remount(disk, "ro") == 0
        with environment(MIXVPR_HOME=disk / bench.random.choice(["", "below"])):
            status, line = ended(start(arguments))
    if status:
        assert not (bench.workdir / "out").exists()
        return told_in_a_line(status, line)
    assert (bench.workdir / "out" / "results.json").exists()
    return "evaluated"


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
    started_twice,
    unreadable_disk,
    too_few_open_files,
    full_disk_in_evaluation,
    read_only_home,
)
