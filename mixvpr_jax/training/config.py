"""Settings of a training run; the defaults are the official recipe (amaralibey/MixVPR main.py)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, Literal, get_args

from mixvpr_jax.checks import (
    differences,
    flat,
    require_known,
    require_not_negative,
    require_positive,
    to_plain_numbers,
    to_whole_numbers,
)
from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.backbones import BACKBONES
from mixvpr_jax.models.config import MixVPRConfig, ModelConfig
from mixvpr_jax.storage import AnyPath, as_path, reaching, resolved, to_paths

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

MOST_LAYERS = max(shape.most_frozen for shape in BACKBONES.values())  # of any backbone


@dataclass(frozen=True)
class StartConfig(ModelConfig):
    """A model to train and its initial weights.

    Attributes:
        init: torchvision's ImageNet weights for the backbone, a PyTorch checkpoint of the whole
            model, a model or run directory (each a path or gs://…), or a released name; None:
            random weights.
    """

    init: str | None = None
    projection: None = field(default=None, init=False)  # a trained model's alone: no option

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.init, os.PathLike):
            object.__setattr__(self, "init", os.fspath(self.init))
        if not isinstance(self.init, str | None):
            raise InputError(f"init: expected a path, an address or a name, found {self.init!r}")

    @property
    def architecture(self) -> ModelConfig:
        """The model without its initial weights."""
        return ModelConfig(**{f.name: getattr(self, f.name) for f in fields(ModelConfig)})


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate schedule.

    Attributes:
        name: SGD with coupled weight decay, or AdamW.
        learning_rate: Peak learning rate, after warm-up.
        momentum: SGD's alone.
        weight_decay: Applied to every trained parameter.
        warmup_steps: Steps of linear warm-up.
        milestones: Epochs at whose start the learning rate falls; those during warm-up have no
            effect.
        factor: What each milestone multiplies the learning rate by.
        linear_decay_steps: Number of steps, from the first, over which the learning rate falls
            linearly to `linear_decay_factor` of its value; 0 disables it.
        linear_decay_factor: See `linear_decay_steps`.
        layer_decay: Learning rate of a stage or block of the backbone, as a multiple of that of the
            next one; the last one's is a multiple of the aggregator's. 1: the same rate for all.
        layers_to_freeze: Last frozen stage of a ResNet (0: the stem alone), or how many of
            DINOv2's blocks are frozen with its embeddings; None freezes none. docs/models.md
            has EfficientNet's and Swin's. Frozen BatchNorms still use the batch's statistics and
            update their batch_stats.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-3
    warmup_steps: int = 650
    milestones: tuple[int, ...] = (5, 10, 15, 25, 45)
    factor: float = 0.3
    linear_decay_steps: int = 0
    linear_decay_factor: float = 0.2
    layer_decay: float = 1.0
    layers_to_freeze: int | None = 2

    def __post_init__(self) -> None:
        to_plain_numbers(self)
        to_whole_numbers(self, "milestones", "epochs from 0 on")
        require_known("optimizer", self.name, ("sgd", "adamw"))
        require_positive(self, "learning_rate", "factor", "layer_decay")
        require_not_negative(self, "momentum", "weight_decay", "warmup_steps")
        require_not_negative(self, "linear_decay_steps", "linear_decay_factor")
        if self.layer_decay > 1:
            raise InputError(f"layer_decay: expected at most 1, found {self.layer_decay}")
        if self.momentum >= 1:
            raise InputError(f"momentum: expected less than 1, found {self.momentum}")
        if not (self.layers_to_freeze is None or self.layers_to_freeze in range(MOST_LAYERS + 1)):
            raise InputError(
                f"layers_to_freeze: expected None or 0 to {MOST_LAYERS}, found "
                f"{self.layers_to_freeze!r:.40}"
            )


@dataclass(frozen=True)
class ValidationConfig:
    """Recall measured after each epoch.

    Attributes:
        sets: Benchmarks (pitts30k-val, …) and folders that hold `database` and `queries`
            (./pitts30k-val is one), which metrics name by their last part.
        data_dir: Folder of the benchmarks; by default $MIXVPR_DATA.
        ground_truth: Folder of the authors' .mat or .npy files, if they lie elsewhere.
        select_by: Metric that ranks checkpoints: the best three are kept, the best becomes the
            model. By default recall@1 of the first set.
        positive_radius_m: Largest distance of a positive in folders, in metres; benchmarks have
            their own.
        batch_size: Images described at a time, over all devices.
        before_training: Also validate before the first step.
    """

    sets: tuple[str | AnyPath, ...] = ()
    data_dir: AnyPath | None = None
    ground_truth: AnyPath | None = None
    select_by: str | None = None
    positive_radius_m: float = 25.0
    batch_size: int = 64
    before_training: bool = False

    def __post_init__(self) -> None:
        to_plain_numbers(self)
        require_positive(self, "positive_radius_m", "batch_size")
        if not isinstance(self.sets, Iterable) or isinstance(self.sets, (str, os.PathLike)):
            raise InputError(
                f"validation.sets: expected several paths or names, found {str(self.sets)!r}; "
                "give it in a tuple"
            )
        object.__setattr__(self, "sets", tuple(map(_as_set, self.sets)))
        for name in () if self.sets else ("data_dir", "ground_truth", "before_training"):
            if value := getattr(self, name):
                raise InputError(
                    f"validation.{name}: expected validation.sets with it, found {value} and no "
                    "sets"
                )
        to_paths(self, "sets", "data_dir", "ground_truth")
        if len(set(self.names)) < len(self.names):
            raise InputError(f"validation.sets: expected distinct last parts, found {self.names}")

    @property
    def names(self) -> tuple[str, ...]:
        """The last part of each set's path, a link's own."""
        paths = map(as_path, self.sets)
        return tuple((p if p.name not in ("", "..") else resolved(p)).name for p in paths)


def _as_set(written: Any) -> Any:
    """Absolute if only "./" or a last "/" tells it from a benchmark's name; paths drop both."""
    if isinstance(written, str) and "/" in written and len(as_path(written).parts) == 1:
        return as_path(written).absolute()
    return written


# Former names of fields, still read in config.json and on command lines.
RENAMED = {
    "chunks": "grad_cache_chunks",
    "freeze_statistics": "freeze_batch_stats",
    "statistics_per_device": "batch_stats_per_device",
}
# Fields that earlier versions lack, and what they did.
ADDED_SINCE: dict[str, Any] = {
    "remat_blocks": False,
    "model.interpolation": "bilinear",
    "data.image_size": None,
    "optimizer.linear_decay_steps": 0,
    "optimizer.linear_decay_factor": 0.2,
    "optimizer.layer_decay": 1.0,
}
# A field and a value of it beside which another field has no effect, the value that the other must
# then have, and the option that gives it. Earlier versions accepted others.
WITHOUT_EFFECT: tuple[tuple[str, Any, str, Any, str], ...] = (
    ("freeze_batch_stats", True, "batch_stats_per_device", False, "--no-batch-stats-per-device"),
    ("optimizer.name", "adamw", "optimizer.momentum", 0.9, "--optimizer.momentum 0.9"),
    (
        "optimizer.linear_decay_steps",
        0,
        "optimizer.linear_decay_factor",
        0.2,
        "--optimizer.linear-decay-steps N",
    ),
    ("data.order", "shuffled", "data.shuffle_cities", False, "--data.no-shuffle-cities"),
)
# Fields that change no step already taken. Checkpoints hold a checksum of what lies in data.root.
MAY_CHANGE = {
    "data.root",
    "data.num_workers",
    "data.prefetch",
    "data.max_unreadable",
    "data.timeout_seconds",
    *(f"validation.{field.name}" for field in fields(ValidationConfig)),
    "epochs",
    "log_every_steps",
    "checkpoint_every_steps",
}


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        model: Model and initial weights.
        data: Training images.
        optimizer: Optimizer and learning rate.
        validation: Recall measured after each epoch.
        loss: Loss, by its official name.
        miner: Miner of the pairs that the loss uses; None: every pair.
        epochs: Times each place is seen.
        seed: Seed of the initial weights and the order of the data.
        freeze_batch_stats: BatchNorm normalises by its batch_stats and never updates them.
        batch_stats_per_device: BatchNorm normalises by each device's images, not the global batch.
        grad_cache_chunks: Chunks of gradient caching, which saves memory: each device describes its
            images chunk by chunk. The gradient is the same, but BatchNorm normalises by chunk.
        remat_blocks: The backward pass computes what lies within a block again, so that the forward
            pass stores the blocks' inputs alone: less memory, about a third more work. It has no
            effect on a plug-in's backbone.
        log_every_steps: Steps between entries of metrics.jsonl.
        checkpoint_every_steps: Steps between checkpoints within an epoch; its end saves one anyway.
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
    remat_blocks: bool = False
    log_every_steps: int = 10
    checkpoint_every_steps: int = 200

    def __post_init__(self) -> None:
        to_plain_numbers(self)
        require_known("loss", self.loss, get_args(LossName))
        if self.miner is not None:
            require_known("miner", self.miner, get_args(MinerName))
        if self.loss == "CentroidTripletLoss" and self.miner is not None:
            raise InputError(f"miner: expected None with CentroidTripletLoss, found {self.miner}")
        if self.model.aggregator is None:
            raise InputError("model.aggregator: expected one to train, found none (bare backbone)")
        frozen = self.optimizer.layers_to_freeze
        if (shape := BACKBONES.get(self.model.arch)) is None:
            for name, only in (("layers_to_freeze", None), ("layer_decay", 1)):
                if (found := getattr(self.optimizer, name)) != only:
                    raise InputError(
                        f"optimizer.{name}: expected {only} with a backbone of one's own, found "
                        f"{found}"
                    )
        elif (frozen or 0) > shape.most_frozen:
            raise InputError(
                f"optimizer.layers_to_freeze: expected None or 0 to {shape.most_frozen} with "
                f"{self.model.arch}, found {frozen}"
            )
        for name, value, other, usual, remedy in WITHOUT_EFFECT:
            if attrgetter(name)(self) == value and (found := attrgetter(other)(self)) != usual:
                raise InputError(
                    f"{other}: expected {usual} with {name} {value}, where it has no effect, found "
                    f"{found}; give {remedy}"
                )
        self._check_image_size()
        require_positive(self, "epochs", "grad_cache_chunks")
        require_positive(self, "log_every_steps", "checkpoint_every_steps")
        require_not_negative(self, "seed")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of training images."""
        return self.data.image_size or self.model.image_size

    def _check_image_size(self) -> None:
        try:
            trained = replace(self.model.architecture, image_size=self.image_size).feature_size
        except InputError as error:
            raise InputError(f"data.{error}") from None
        is_mixvpr = isinstance(self.model.aggregator, MixVPRConfig)
        if is_mixvpr and trained != (found := self.model.feature_size):
            raise InputError(
                f"data.image_size: expected images of a feature map of {found[0]}x{found[1]}, for "
                f"which MixVPR's weights are, found {self.image_size}"
            )

    def to_dict(self) -> dict[str, Any]:
        """This configuration as plain JSON values."""
        model = {**self.model.architecture.to_dict(), "init": self.model.init}
        return json.loads(json.dumps({**asdict(self), "model": model}, default=str))


def require_same_run(config: TrainConfig, path: AnyPath) -> None:
    """Raises InputError if a config.json differs in more than `MAY_CHANGE`; lists differences."""
    try:
        with reaching(path):
            values: dict[str, Any] = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError(type(values).__name__)
    except ValueError as error:
        raise InputError(f"{path}: expected a run's configuration, found {error}") from None
    there = ADDED_SINCE | flat({RENAMED.get(name, name): values[name] for name in values})
    for name, value, other, usual, _ in WITHOUT_EFFECT:
        if there.get(name) == value:
            there[other] = usual
    if other := differences(there, config.to_dict(), besides=MAY_CHANGE):
        raise InputError(
            f"{path.parent}: a run of another configuration ({'; '.join(other)}); choose another "
            "--workdir, or run the same command to resume"
        )
