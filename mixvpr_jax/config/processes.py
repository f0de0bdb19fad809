"""Which of several processes a command is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mixvpr_jax.errors import InputError


@dataclass(frozen=True)
class ProcessConfig:
    """Which of several processes this is, where the environment does not tell; all or none.

    Attributes:
        coordinator: Address of process 0, as host:port; the port must be free there.
        processes: How many there are.
        process_id: Which this is, from 0 on.
    """

    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        values = (self.coordinator, self.processes, self.process_id)
        if all(value is None for value in values):
            return
        if self.coordinator is None or self.processes is None or self.process_id is None:
            raise InputError(
                "expected --coordinator, --processes and --process-id, or none of them"
            )
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise InputError(f"coordinator: expected host:port, found {self.coordinator!r}")
        if not 0 <= self.process_id < self.processes:
            raise InputError(
                f"process_id: expected 0 to {self.processes - 1}, found {self.process_id}"
            )


ALONE = ProcessConfig()  # or as the environment says
