"""What a model is, as typed values: frozen, hashable, written to and read from config.json."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from mixvpr_jax.errors import InputError
from mixvpr_jax.trunks import TRUNKS

Dtype = Literal["float32", "bfloat16", "float64"]


@dataclass(frozen=True)
class MixVPRConfig:
    """MixVPR's aggregator (Ali-bey et al., WACV 2023); `in_channels, in_h, in_w` follow the trunk.

    Attributes:
        out_channels: Channels after the channel projection.
        mix_depth: Number of feature mixers.
        mlp_ratio: Hidden width of a mixer, as a multiple of the map's positions.
        out_rows: Rows after the row projection; the descriptor has out_channels * out_rows values.
    """

    name: ClassVar[str] = "MixVPR"
    out_channels: int = 1024
    mix_depth: int = 4
    mlp_ratio: float = 1.0
    out_rows: int = 4

    def __post_init__(self) -> None:
        _require_positive(self, "out_channels", "mlp_ratio", "out_rows")
        if self.mix_depth < 0:
            raise InputError(f"mix_depth: expected 0 or more, found {self.mix_depth}")


@dataclass(frozen=True)
class ConvAPConfig:
    """Conv-AP (Ali-bey et al., GSV-Cities, 2022): 1x1 convolution, averages of s1 x s2 cells."""

    name: ClassVar[str] = "ConvAP"
    out_channels: int = 512
    s1: int = 2
    s2: int = 2

    def __post_init__(self) -> None:
        _require_positive(self, "out_channels", "s1", "s2")


@dataclass(frozen=True)
class CosPlaceConfig:
    """CosPlace's head (Berton et al., CVPR 2022): normalise, GeM, Linear, normalise."""

    name: ClassVar[str] = "CosPlace"
    out_dim: int = 512

    def __post_init__(self) -> None:
        _require_positive(self, "out_dim")


@dataclass(frozen=True)
class GeMConfig:
    """Generalised mean pooling (Radenovic et al., TPAMI 2018); `p` is where its exponent starts."""

    name: ClassVar[str] = "GeM"
    p: float = 3.0

    def __post_init__(self) -> None:
        _require_positive(self, "p")


AggregatorConfig = MixVPRConfig | ConvAPConfig | CosPlaceConfig | GeMConfig
AGGREGATORS: Mapping[str, type[AggregatorConfig]] = {
    cls.name: cls for cls in (MixVPRConfig, ConvAPConfig, CosPlaceConfig, GeMConfig)
}


@dataclass(frozen=True)
class ModelConfig:
    """A trunk, an aggregator and the image size that they were made for.

    Attributes:
        arch: The trunk, by torchvision's name; one of `TRUNKS`.
        layers_to_crop: Stages cut off the trunk's end: (4,), (3, 4) or ().
        aggregator: What turns the feature map into a descriptor; None is the bare trunk.
        image_size: Height and width in pixels to which images are resized.
        dtype: What is computed in. Parameters and descriptors are float32, except that with
            "float64" (for parity checks, under `jax_enable_x64`) everything is float64.
    """

    arch: str = "resnet50"
    layers_to_crop: tuple[int, ...] = (4,)
    aggregator: AggregatorConfig | None = field(default_factory=MixVPRConfig)
    image_size: tuple[int, int] = (320, 320)
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        _require_known("arch", self.arch, TRUNKS)
        _require_known("dtype", self.dtype, get_args(Dtype))
        if self.layers_to_crop not in ((), (4,), (3, 4)):
            found = self.layers_to_crop
            raise InputError(f"layers_to_crop: expected (), (4,) or (3, 4), found {found}")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise InputError(f"image_size: expected (height, width), found {self.image_size}")

    @property
    def num_stages(self) -> int:
        """Stages that the trunk keeps, 2 to 4."""
        return 4 - len(self.layers_to_crop)

    @property
    def stride(self) -> int:
        """Pixels of the image to a position of the feature map."""
        return 4 * 2 ** (self.num_stages - 1)

    @property
    def feature_channels(self) -> int:
        """Channels of the feature map."""
        return TRUNKS[self.arch].out_channels(self.num_stages)

    @property
    def feature_size(self) -> tuple[int, int]:
        """Height and width of the feature map of an image of `image_size`."""
        height, width = self.image_size
        return -(-height // self.stride), -(-width // self.stride)

    @property
    def descriptor_dim(self) -> int | None:
        """Length of a descriptor; None for a bare trunk."""
        match self.aggregator:
            case None:
                return None
            case MixVPRConfig(out_channels=channels, out_rows=rows):
                return channels * rows
            case ConvAPConfig(out_channels=channels, s1=s1, s2=s2):
                return channels * s1 * s2
            case CosPlaceConfig(out_dim=dim):
                return dim
            case GeMConfig():
                return self.feature_channels

    def to_dict(self) -> dict[str, Any]:
        """This configuration as plain JSON values; `from_dict` reads it back."""
        values = asdict(self)
        if self.aggregator is not None:
            values["aggregator"] = {"name": self.aggregator.name, **values["aggregator"]}
        values["layers_to_crop"] = list(self.layers_to_crop)
        values["image_size"] = list(self.image_size)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Reads what `to_dict` gives.

        Raises:
            InputError: Unknown, missing or ill-typed fields; the line names them.
        """
        values = dict(_checked_fields(cls, values))
        if values["aggregator"] is not None:
            aggregator = dict(values["aggregator"])
            name = aggregator.pop("name", None)
            _require_known("aggregator name", name, AGGREGATORS)
            kind = AGGREGATORS[name]
            values["aggregator"] = kind(**_checked_fields(kind, aggregator))
        values["layers_to_crop"] = tuple(values["layers_to_crop"])
        values["image_size"] = tuple(values["image_size"])
        return cls(**values)


@dataclass(frozen=True)
class OptimizerConfig:
    """The official recipe's optimizer (main.py of amaralibey/MixVPR).

    Attributes:
        name: SGD with coupled weight decay, or AdamW.
        learning_rate: Its full height, after warm-up.
        momentum: Of SGD.
        weight_decay: On every trained parameter.
        warmup_steps: Steps over which the learning rate rises from nearly 0.
        milestones: Epochs at whose start it falls.
        factor: What it is multiplied by then.
        layers_to_freeze: The last frozen stage of the trunk (0: the stem alone), None for none.
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
        _require_known("optimizer", self.name, ("sgd", "adamw"))
        _require_positive(self, "learning_rate", "factor")
        if self.layers_to_freeze not in (None, 0, 1, 2, 3):
            found = self.layers_to_freeze
            raise InputError(f"layers_to_freeze: expected None or 0 to 3, found {found}")


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
        _require_positive(self, "positive_radius_m", "batch_size")


def closest(name: object, known: Iterable[str]) -> str:
    """The known names nearest to a mistyped one, as the end of an error line."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
    return f"; closest: {', '.join(near)}" if near else f"; known: {', '.join(names)}"


def _require_known(what: str, name: object, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        raise InputError(f"{what}: unknown name {name!r}{closest(name, known)}")


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name}: expected a number above 0, found {value!r}")


def _checked_fields(cls: type, values: object) -> Mapping[str, Any]:
    """JSON values for each field of a dataclass, none missing, none surplus, each of its type."""
    if not isinstance(values, Mapping):
        raise InputError(f"{cls.__name__}: expected an object, found {values!r}")
    expected = {f.name: str(f.type) for f in fields(cls)}
    missing, surplus = expected.keys() - values.keys(), values.keys() - expected.keys()
    if missing or surplus:
        raise InputError(
            f"{cls.__name__}: missing fields {sorted(missing)}, unknown fields {sorted(surplus)}"
        )
    for name, value in values.items():
        if not _JSON_TYPES[expected[name]](value):
            raise InputError(f"{cls.__name__}: {name}: expected {expected[name]}, found {value!r}")
    return values


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_ints(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_int, value))


# How JSON holds each type of field: what json.loads may give for it.
_JSON_TYPES = {
    "int": _is_int,
    "float": lambda value: _is_int(value) or isinstance(value, float),
    "str": lambda value: isinstance(value, str),
    "Dtype": lambda value: isinstance(value, str),
    "tuple[int, ...]": _are_ints,
    "tuple[int, int]": _are_ints,
    "AggregatorConfig | None": lambda value: value is None or isinstance(value, Mapping),
}
