"""Which of a run's validations is the best, where settings of validation may change on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mixvpr_jax.config import ValidationConfig, closest
from mixvpr_jax.errors import InputError
from mixvpr_jax.training.log import Entry, values_of
from mixvpr_jax.training.validation import former_metrics, metrics_of

RADIUS_M = ValidationConfig.positive_radius_m  # unless an entry says another


@dataclass(frozen=True)
class Selection:
    """What is compared, and over which entries of the log: those measured by the same radius.

    Attributes:
        metric: The metric that says which is best; None without validation.
        radius_m: How near a positive is in folders, in metres.
    """

    metric: str | None
    radius_m: float

    @classmethod
    def of(cls, config: ValidationConfig) -> Selection:
        """As a configuration says.

        Raises:
            InputError: A metric that no validation set gives.
        """
        known = metrics_of(config)
        wanted = former_metrics(config).get(str(config.select_by), config.select_by)
        if wanted is not None and wanted not in known:
            what = closest(wanted, known) if known else "; there are no validation.sets"
            raise InputError(f"validation.select_by: unknown metric {wanted!r}{what}")
        return cls(wanted or next(iter(known), None), config.positive_radius_m)

    def ranked(self, entries: Iterable[Entry]) -> list[int]:
        """The steps that were validated, the best first; of equal ones the later."""
        values = values_of(self._own(entries), self.metric) if self.metric else {}
        trained = [step for step in values if step > 0]
        return sorted(trained, key=lambda step: (values[step], step), reverse=True)

    def measured(self, entries: Iterable[Entry], step: int) -> dict[str, float]:
        """What validation measured after a step."""
        own = [entry for entry in self._own(entries) if entry["step"] == step]
        return {name: entry[name] for entry in own for name in entry if "/" in name}

    def entry(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What the log keeps of a validation."""
        usual = self.radius_m == RADIUS_M
        return {**metrics, **({} if usual else {"positive_radius_m": self.radius_m})}

    def _own(self, entries: Iterable[Entry]) -> list[Entry]:
        return [e for e in entries if e.get("positive_radius_m", RADIUS_M) == self.radius_m]
