"""What happens to two processes that train or evaluate together, one fault a function.

As in `one_process`; the process that nothing happens to must not wait for the other.
"""

import signal
import subprocess
import time
from pathlib import Path

from bench import PATIENCE_SECONDS, Bench, Hangs, ended, evaluation
from runs import finish, start
from test_processes import OTHER_ENDED, finish_all, free_port, start_all


def start_two(arguments: list[object]) -> list[subprocess.Popen[str]]:
    """Two processes with a device each, as soon as they have met."""
    port = free_port()
    running = start_all(arguments, 2, 1, port=port)
    until = time.monotonic() + PATIENCE_SECONDS
    while connections(port) < 2 and time.monotonic() < until:
        assert all(process.poll() is None for process in running), finish_all(running)
        time.sleep(0.01)
    return running


def connections(port: int) -> int:
    """How many there are to a port of this machine, as Linux lists them."""
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    established = "01"
    return sum(int(f[1].split(":")[1], 16) == port and f[3] == established for f in lines)


def without(unlucky: int, running: list[subprocess.Popen[str]], what: signal.Signals) -> str:
    """Sends a signal to one of two; the other must end within a minute, and say why."""
    other = running[1 - unlucky]
    running[unlucky].send_signal(what)
    since = time.monotonic()
    try:
        status, _, errors = finish(other, 60)
    except subprocess.TimeoutExpired:
        raise Hangs("the other process waits") from None
    finally:
        for process in running:
            process.kill()
        finish_all(running)
    if status == 0:
        return "not met"
    assert any(line in errors for line in OTHER_ENDED), errors[-2000:]
    return f"the other ended within {10 * (1 + int(time.monotonic() - since) // 10)} s"


def one_of_two_killed(bench: Bench) -> str:
    """SIGKILL to one of two processes, once they have met: in the first compile, a step, a save."""
    running = start_two(bench.command())
    bench.sleep()
    return without(bench.random.randrange(2), running, signal.SIGKILL)


def one_of_two_killed_while_saving(bench: Bench) -> str:
    """The same, while a checkpoint is being written."""
    running = start_two(bench.command())
    bench.wait_for_save(running[0])
    return without(bench.random.randrange(2), running, signal.SIGKILL)


def one_of_two_stalled(bench: Bench) -> str:
    """SIGSTOP to one of two processes: it is there, and does nothing any more."""
    running = start_two(bench.command())
    bench.sleep()
    return without(bench.random.randrange(2), running, signal.SIGSTOP)


def both_killed(bench: Bench) -> str:
    """SIGKILL to both of two processes at once, once they have met."""
    running = start_two(bench.command())
    bench.sleep()
    for process in running:
        process.kill()
    finish_all(running)
    return "killed"


def one_of_two_asked_to_stop(bench: Bench) -> str:
    """SIGTERM to one of two processes, once they have met: both save the same step."""
    running = start_two(bench.command())
    bench.sleep()
    running[bench.random.randrange(2)].send_signal(signal.SIGTERM)
    try:
        found = finish_all(running, PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        raise Hangs("no end of both") from None
    assert [status for status, _, _ in found] == [0, 0], found
    return "saved"


def one_of_two_killed_in_evaluation(bench: Bench) -> str:
    """SIGKILL to one of two processes that evaluate; the same command gives the same bytes."""
    arguments = [*evaluation(bench), "--cache-gigabytes", 0]
    assert ended(start([*arguments, "--output", bench.workdir / "whole"], 2))[0] == 0
    arguments += ["--output", bench.workdir / "again"]
    running = start_two(arguments)
    time.sleep(bench.random.uniform(0, 3))  # it is soon over
    outcome = without(bench.random.randrange(2), running, signal.SIGKILL)
    if outcome != "not met":
        found = finish_all(start_all(arguments, 2, 1), PATIENCE_SECONDS)
        assert [status for status, _, _ in found] == [0, 0], found
    whole, again = (bench.workdir / name / "predictions.csv" for name in ("whole", "again"))
    assert whole.read_bytes() == again.read_bytes()
    return outcome


FAULTS = (
    both_killed,
    one_of_two_killed,
    one_of_two_killed_while_saving,
    one_of_two_stalled,
    one_of_two_asked_to_stop,
    one_of_two_killed_in_evaluation,
)
