"""What to evaluate, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixvpr_jax.config.checks import require_positive
from mixvpr_jax.config.model import Dtype


@dataclass(frozen=True)
class EvaluationConfig:
    """What to evaluate, and how.

    Attributes:
        weights: A model's folder, a released name or hf://organisation/repository.
        database: Folder of the images that are searched.
        queries: Folder of the images that are looked for.
        output: Folder for results.json, predictions.csv, descriptors and report.html.
        positive_radius_m: How near, in metres, an image shows the same place, where file names
            hold positions (@utm_east@utm_north@…).
        batch_size: How many images the model sees at a time.
        dtype: What to compute in, if not what the model's configuration says.
        skip_unreadable: Leave out images that cannot be read, and count them.
        overwrite: Replace earlier results in the output folder.
    """

    weights: str
    database: Path
    queries: Path
    output: Path
    positive_radius_m: float = 25.0
    batch_size: int = 16
    dtype: Dtype | None = None
    skip_unreadable: bool = False
    overwrite: bool = False

    def check(self) -> None:
        """Raises InputError where a number makes no sense."""
        require_positive(self, "positive_radius_m", "batch_size")
