"""What a training run is: model, data, optimizer, validation; defaults are the official recipe.

The recipe is that of main.py of amaralibey/MixVPR.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from mixvpr_jax.checks import (
    require_known,
    require_not_negative,
    require_positive,
    to_paths,
)
from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import ModelConfig
from mixvpr_jax.storage import AnyPath, resolved

LossName = Literal[
    "MultiSimilarityLoss",
    "SupConLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "Lifted",
    "FastAPLoss",
    "NTXentLoss",
    "TripletMarginLoss",
    "CentroidTripletLoss",
]
MinerName = Literal["MultiSimilarityMiner", "TripletMarginMiner", "PairMarginMiner"]


@dataclass(frozen=True)
class StartConfig(ModelConfig):
    """A model to train, and what its weights start from.

    Attributes:
        init: torchvision's ImageNet weights for the backbone, a PyTorch checkpoint of the whole
            model, a model's folder or another run's, each also on gs://, or a released name; None
            starts from random weights.
    """

    init: str | None = None

    @property
    def architecture(self) -> ModelConfig:
        """The model alone."""
        own = {f.name: getattr(self, f.name) for f in fields(ModelConfig)}
        return ModelConfig(**own)


@dataclass(frozen=True)
class OptimizerConfig:
    """The official optimizer and its learning rate.

    Attributes:
        name: SGD with coupled weight decay, or AdamW.
        learning_rate: Its full height, after warm-up.
        momentum: Of SGD.
        weight_decay: On every trained parameter.
        warmup_steps: Steps over which the learning rate rises from nearly 0.
        milestones: Epochs at whose start it falls; one that begins during warm-up has no effect.
        factor: What it is multiplied by then.
        layers_to_freeze: The last frozen stage of the backbone (0: the stem alone), None for none.
            Frozen BatchNorms still normalise by the batch and move their running statistics.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-3
    warmup_steps: int = 650
    milestones: tuple[int, ...] = (5, 10, 15, 25, 45)
    factor: float = 0.3
    layers_to_freeze: int | None = 2

    def __post_init__(self) -> None:
        require_known("optimizer", self.name, ("sgd", "adamw"))
        require_positive(self, "learning_rate", "factor")
        require_not_negative(self, "momentum", "weight_decay", "warmup_steps")
        if self.momentum >= 1:
            raise InputError(f"momentum: expected less than 1, found {self.momentum}")
        if any(epoch < 0 for epoch in self.milestones):
            raise InputError(f"milestones: expected epochs from 0 on, found {self.milestones}")
        if self.layers_to_freeze not in (None, 0, 1, 2, 3):
            found = self.layers_to_freeze
            raise InputError(f"layers_to_freeze: expected None or 0 to 3, found {found}")


@dataclass(frozen=True)
class ValidationConfig:
    """What is measured after each epoch.

    Attributes:
        sets: Benchmarks by their names (pitts30k-val, …), and folders that each hold `database` and
            `queries` (see eval.py), named by their last part.
        data_dir: Where the benchmarks lie; None is the folder that MIXVPR_DATA names.
        ground_truth: Where the authors' .mat or .npy files lie, if not there.
        select_by: The metric whose best three checkpoints are kept and whose best becomes the
            model; None is recall@1 of the first set.
        positive_radius_m: How near, in metres, a database image of a folder shows a query's place.
        batch_size: Images described at a time, over all devices.
        before_training: Whether to measure once before the first step, too.
    """

    sets: tuple[AnyPath, ...] = ()
    data_dir: AnyPath | None = None
    ground_truth: AnyPath | None = None
    select_by: str | None = None
    positive_radius_m: float = 25.0
    batch_size: int = 64
    before_training: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "positive_radius_m", "batch_size")
        to_paths(self, "sets", "data_dir", "ground_truth")
        names = self.names
        if len(set(names)) < len(names):
            raise InputError(f"validation.sets: expected distinct last parts, found {names}")

    @property
    def names(self) -> tuple[str, ...]:
        """What the sets are called in metrics."""
        return tuple(resolved(folder).name for folder in self.sets)


# Former names of fields, which config.json of earlier runs and command lines may hold.
RENAMED = {
    "chunks": "grad_cache_chunks",
    "freeze_statistics": "freeze_batch_stats",
    "statistics_per_device": "batch_stats_per_device",
}


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        model: What is trained, and what it starts from.
        data: On what.
        optimizer: How.
        validation: What is measured after each epoch.
        loss: By the name that the official configuration knows it by.
        miner: What the loss looks at; None is every pair.
        epochs: How often each place is seen.
        seed: Of fresh weights and of the order of the data.
        freeze_batch_stats: Whether BatchNorm normalises by its running statistics, held still.
        batch_stats_per_device: Whether BatchNorm takes the statistics of each device's own images,
            not of the whole batch.
        grad_cache_chunks: Chunks of gradient caching, which saves memory: each device describes
            its images chunk by chunk. The gradient is the same, with BatchNorm's batch statistics
            taken over each chunk.
        log_every_steps: How often a line goes into metrics.jsonl.
        checkpoint_every_steps: How often to save within an epoch, besides at its end.
    """

    model: StartConfig = field(default_factory=StartConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    loss: LossName = "MultiSimilarityLoss"
    miner: MinerName | None = "MultiSimilarityMiner"
    epochs: int = 80
    seed: int = 190223
    freeze_batch_stats: bool = False
    batch_stats_per_device: bool = False
    grad_cache_chunks: int = 1
    log_every_steps: int = 10
    checkpoint_every_steps: int = 200

    def __post_init__(self) -> None:
        require_known("loss", self.loss, get_args(LossName))
        if self.miner is not None:
            require_known("miner", self.miner, get_args(MinerName))
        if self.loss == "CentroidTripletLoss" and self.miner is not None:
            raise InputError(f"miner: expected None with CentroidTripletLoss, found {self.miner}")
        if self.model.aggregator is None:
            raise InputError(
                "model.aggregator: expected one to train, found none (a bare backbone)"
            )
        counts = ("epochs", "grad_cache_chunks", "log_every_steps", "checkpoint_every_steps")
        require_positive(self, *counts)
        require_not_negative(self, "seed")

    def to_dict(self) -> dict[str, Any]:
        """This configuration as plain JSON values."""
        values = _plain(asdict(self))
        values["model"] = {**self.model.architecture.to_dict(), "init": self.model.init}
        return values


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two configurations differ, as plain JSON values, a line each."""
    lines = []
    for name in sorted(there.keys() | here.keys()):
        old, new = there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: {old!r} there, {new!r} here")
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value
