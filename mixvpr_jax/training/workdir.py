"""The working folder of a run: one configuration to a folder."""

from __future__ import annotations

import json
from pathlib import Path

from mixvpr_jax.config import TrainConfig
from mixvpr_jax.config.training import differences
from mixvpr_jax.errors import InputError
from mixvpr_jax.files import beside

# How fast batches come and where from, not what is in them: of that, checkpoints hold a checksum.
MAY_CHANGE = ("data.root", "data.num_workers", "data.prefetch", "data.max_unreadable")


def check_workdir(config: TrainConfig, workdir: Path) -> None:
    """Raises InputError where a folder cannot be that of this run; the line lists differences."""
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: expected a folder for the run, found a file")
    path = workdir / "config.json"
    if not path.exists():
        if (workdir / "checkpoints").exists():
            raise InputError(f"{workdir}: expected config.json beside checkpoints, found none")
        return
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: expected a run's configuration, found {error}") from None
    lines = differences(there, config.to_dict())
    if other := [line for line in lines if line.split(":")[0] not in MAY_CHANGE]:
        raise InputError(
            f"{workdir}: a run of another configuration ({'; '.join(other)}); choose another "
            "folder, or give the same command to go on"
        )


def claim_workdir(config: TrainConfig, workdir: Path) -> None:
    """Writes a run's configuration into its folder, where it is not there yet."""
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "config.json").exists():
        with beside(workdir / "config.json") as temporary:
            temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
