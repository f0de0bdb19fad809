"""Runs with a random fault each: python tests/faults/campaign.py --rounds 10 (`make faults`).

Every run must go on to the model of a run that nothing ailed, or end with one clear line and then
go on; nothing may hang. Prints a table of what came of each kind of fault.
"""

import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import tyro

sys.path[:0] = [str(folder) for folder in Path(__file__).parents[:3]]  # here, tests and the root

import one_process  # noqa: E402
import several_processes  # noqa: E402
from bench import Bench, Hangs, check_model, goes_on  # noqa: E402
from runs import CITIES, finish, start  # noqa: E402

from demo.town import CityConfig, write_evaluation_folders, write_gsv_cities  # noqa: E402

FAULTS = {fault.__name__: fault for fault in one_process.FAULTS + several_processes.FAULTS}
OWN_IMAGES = ("broken_image",)
OWN_END = (  # which check what follows
    "full_disk",
    "read_only_disk",
    "killed_evaluation",
    "full_disk_in_evaluation",
    "read_only_home",
    "one_of_two_killed_in_evaluation",
)


def draw(folder: Path) -> Path:
    """The tiny town of the tests."""
    drawn = {"image_size": (36, 48), "difficulty": 0.3}
    write_gsv_cities(CityConfig(7, 5, **drawn, seed=1), folder / "train", cities=CITIES)
    write_evaluation_folders(CityConfig(5, 4, **drawn, seed=2), folder / "test")
    return folder


def unharmed(town: Path, folder: Path) -> tuple[float, Path]:
    """Seconds of a run that nothing ails, programs compiled before, and its model's file."""
    for name in ("first", "second"):
        bench = Bench(town, folder / name, Random(0), 0)
        since = time.monotonic()
        status, _, errors = finish(start(bench.command(), 2), 300)
        assert status == 0, errors
    return time.monotonic() - since, folder / "second" / "model" / "model.safetensors"


def try_fault(name: str, bench: Bench) -> str:
    """What came of one fault, the run's end included."""
    if name in OWN_IMAGES:
        bench.images = bench.workdir.with_name("images")
        shutil.copytree(bench.town / "train", bench.images)
    outcome = FAULTS[name](bench)
    if name not in OWN_END:
        goes_on(bench)
        check_model(bench)
    return outcome


def main(rounds: int = 10, seed: int = 0, only: tuple[str, ...] = ()) -> None:
    """Runs the campaign.

    Args:
        rounds: How often each fault is tried.
        seed: Of the moments and places of faults.
        only: Some of the faults, by name.
    """
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in only or FAULTS}
    failures = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        town = draw(root / "town")
        seconds, model = unharmed(town, root)
        print(f"a run that nothing ails: {seconds:.1f} s", flush=True)
        for number in range(rounds):
            for name in outcomes:
                workdir = root / f"{name}_{number}" / "run"
                workdir.parent.mkdir()
                random = Random(f"{seed} {number} {name}")
                bench = Bench(town, workdir, random, seconds, expected=model)
                try:
                    outcome = try_fault(name, bench)
                except (AssertionError, Hangs) as error:
                    outcome = "FAILED"
                    failures.append(f"{name}, round {number}: {error}")
                outcomes[name][outcome] += 1
                print(f"{number + 1}/{rounds} {name}: {outcome}", flush=True)
                with suppress(OSError):
                    shutil.rmtree(workdir.parent)
    print("\n| fault | runs | what came of it |\n| --- | --- | --- |")
    for name, counts in outcomes.items():
        told = ", ".join(f"{outcome} ({count})" for outcome, count in counts.most_common())
        print(f"| {name.replace('_', ' ')} | {counts.total()} | {told} |")
    sys.exit("\n".join(failures) or 0)


if __name__ == "__main__":
    tyro.cli(main)
