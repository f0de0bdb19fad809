"""The model's configuration: aggregators, and the whole model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from mixvpr_jax.checks import (
    checked_fields,
    require_known,
    require_positive,
    to_plain_numbers,
    to_size,
    to_whole_numbers,
)
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.backbones import BACKBONES, VITS, Shape
from mixvpr_jax.models.plugins import Aggregator, Backbone, find_plugin, saved_name

DEEPEST = 128  # mixers, each of which takes time to build; the official models have 4
WIDEST = 1000  # a mixer's hidden width, as a multiple of the positions

Dtype = Literal["float32", "tensorfloat32", "bfloat16", "float64"]
Interpolation = Literal["bilinear", "bicubic"]
# Fields of ModelConfig that earlier versions do not know, and all that files may lack: as it was.
ADDED_SINCE = {"projection": None, "final_norm": True}
LACKING = {"interpolation": "bilinear", **ADDED_SINCE}
Engine = Literal["jax", "onnxruntime", "openvino", "openvino-bfloat16"]


@dataclass(frozen=True)
class _Positive:
    """Settings that are all numbers above 0."""

    def __post_init__(self) -> None:
        to_plain_numbers(self)
        require_positive(self, *(setting.name for setting in fields(self)))


@dataclass(frozen=True)
class MixVPRConfig:
    """MixVPR's aggregator (WACV 2023); `in_channels, in_h, in_w` follow the backbone.

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
        to_plain_numbers(self)
        require_positive(self, "out_channels", "mlp_ratio", "out_rows")
        if self.mlp_ratio > WIDEST:
            raise InputError(f"mlp_ratio: expected at most {WIDEST}, found {self.mlp_ratio!r}")
        if not 0 <= self.mix_depth <= DEEPEST:
            raise InputError(f"mix_depth: expected 0 to {DEEPEST}, found {self.mix_depth!r:.40}")


@dataclass(frozen=True)
class ConvAPConfig(_Positive):
    """Conv-AP (Ali-bey et al., GSV-Cities, 2022): 1x1 convolution, averages of s1 x s2 cells."""

    name: ClassVar[str] = "ConvAP"
    out_channels: int = 512
    s1: int = 2
    s2: int = 2


@dataclass(frozen=True)
class CosPlaceConfig(_Positive):
    """CosPlace's head (Berton et al., CVPR 2022): normalise, GeM, Linear, normalise."""

    name: ClassVar[str] = "CosPlace"
    out_dim: int = 512


@dataclass(frozen=True)
class GeMConfig(_Positive):
    """Generalised mean pooling (Radenovic et al., TPAMI 2018); `p` is the initial exponent."""

    name: ClassVar[str] = "GeM"
    p: float = 3.0


@dataclass(frozen=True)
class SALADConfig(_Positive):
    """SALAD (Izquierdo, Civera, CVPR 2024): features shared out among clusters by transport.

    Attributes:
        num_clusters: Clusters beside the dustbin.
        cluster_dim: Features of a cluster.
        token_dim: Features of the class token; the descriptor has token_dim + num_clusters *
            cluster_dim values.
    """

    name: ClassVar[str] = "SALAD"
    num_clusters: int = 64
    cluster_dim: int = 128
    token_dim: int = 256


@dataclass(frozen=True)
class BoQConfig(_Positive):
    """BoQ (Ali-bey et al., CVPR 2024): learned queries read the feature map by attention.

    Attributes:
        proj_channels: Channels after the 3x3 convolution, a multiple of 64 (a head of attention).
        num_queries: Learned queries of a layer.
        num_layers: Layers, each an encoder and its queries.
        row_dim: Rows after the last projection; the descriptor has proj_channels * row_dim values.
    """

    name: ClassVar[str] = "BoQ"
    head_dim: ClassVar[int] = 64
    proj_channels: int = 512
    num_queries: int = 64
    num_layers: int = 2
    row_dim: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.proj_channels % self.head_dim:
            raise InputError(
                f"proj_channels: expected a multiple of {self.head_dim}, found {self.proj_channels}"
            )
        if self.num_layers > DEEPEST:
            raise InputError(f"num_layers: expected 1 to {DEEPEST}, found {self.num_layers!r:.40}")


OwnAggregatorConfig = (
    MixVPRConfig | ConvAPConfig | CosPlaceConfig | GeMConfig | SALADConfig | BoQConfig
)
AggregatorConfig = OwnAggregatorConfig | Aggregator
AGGREGATORS: Mapping[str, type[OwnAggregatorConfig]] = {
    cls.name: cls for cls in get_args(OwnAggregatorConfig)
}


@dataclass(frozen=True)
class ModelConfig:
    """A backbone, an aggregator and the preprocessing of their images.

    Attributes:
        arch: The backbone's name, one of `BACKBONES`, or "module:Class" of one that
            `register_backbone` knows.
        layers_to_crop: Stages cut off a ResNet's end: (4,), (3, 4) or (); () for other backbones.
        aggregator: Turns the feature map into a descriptor; None for a bare backbone.
        image_size: Height and width in pixels after resizing.
        dtype: Dtype of computation. Parameters and descriptors are float32, or float64 with
            "float64" (for parity checks, under `jax_enable_x64`). With "tensorfloat32" GPUs round
            the factors of products to 10 bits, and TPUs make them of three in bfloat16.
        interpolation: Pillow's resize filter: MixVPR and gsv-cities train with "bilinear",
            OpenVPRLab with "bicubic".
        projection: Length of the descriptors after a learned Linear layer (`mixvpr pca`, or
            MegaLoc's), which are scaled to unit norm once more; None without one.
        final_norm: Whether a DINOv2's tokens pass its last LayerNorm, as in its authors' code and
            SALAD's; OpenVPRLab and BoQ leave it out.
    """

    arch: str = "resnet50"
    layers_to_crop: tuple[int, ...] = (4,)
    aggregator: AggregatorConfig | None = field(default_factory=MixVPRConfig)
    image_size: tuple[int, int] = (320, 320)
    dtype: Dtype = "float32"
    interpolation: Interpolation = "bilinear"
    projection: int | None = None
    final_norm: bool = True

    def __post_init__(self) -> None:
        if self._is_plugged:
            find_plugin(self.arch, Backbone)
        else:
            require_known("arch", self.arch, BACKBONES)
        require_known("dtype", self.dtype, get_args(Dtype))
        require_known("interpolation", self.interpolation, get_args(Interpolation))
        to_whole_numbers(self, "layers_to_crop", "(), (4,) or (3, 4)")
        to_size(self, "image_size")
        crops = Shape.crops if self._is_plugged else BACKBONES[self.arch].crops
        if self.layers_to_crop not in crops:
            *others, last = map(str, crops)
            expected = f"{', '.join(others)} or {last}" if others else last
            raise InputError(
                f"layers_to_crop: expected {expected} with {self.arch}, found {self.layers_to_crop}"
            )
        self.check_size(*self.image_size)
        if not isinstance(self.aggregator, AggregatorConfig | None):
            known = ", ".join(f"{kind.__name__}(…)" for kind in AGGREGATORS.values())
            raise InputError(
                f"aggregator: expected {known} or None, found {self.aggregator!r:.100}"
            )
        if isinstance(self.aggregator, SALADConfig):
            if self.arch not in VITS:
                raise InputError(
                    "aggregator: expected a backbone with a class token for SALAD, found "
                    f"{self.arch}; there are {', '.join(VITS)}"
                )
            positions, clusters = math.prod(self.feature_size), self.aggregator.num_clusters
            if positions <= clusters:
                raise InputError(
                    f"image_size: expected a feature map of more positions than SALAD has clusters "
                    f"({clusters}), found {positions} with {self.image_size}"
                )
        if not (isinstance(self.final_norm, bool) and (self.final_norm or self.arch in VITS)):
            raise InputError(
                f"final_norm: expected true with {self.arch}, found {self.final_norm!r:.40}"
            )
        if (size := self.projection) is not None:
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise InputError(f"projection: expected a whole number above 0, found {size!r:.40}")
            if self.aggregator is None:
                raise InputError("projection: expected an aggregator with it, found none")

    @property
    def _is_plugged(self) -> bool:
        """Whether the backbone is not the package's own."""
        return isinstance(self.arch, str) and ":" in self.arch

    def check_size(self, height: int, width: int) -> None:
        """Raises InputError unless the backbone takes images of that size."""
        if self._is_plugged:
            return
        shape = BACKBONES[self.arch]
        nearest = shape.nearest_size(height, width)
        if nearest != (height, width):
            raise InputError(
                f"image_size: expected {shape.sizes} with {self.arch}, found {height}x{width}; "
                f"closest: {nearest[0]}x{nearest[1]}"
            )

    @property
    def num_stages(self) -> int:
        """Stages of a ResNet that are kept, 2 to 4."""
        return 4 - len(self.layers_to_crop)

    @property
    def stride(self) -> int:
        """Pixels of the image per position of the feature map."""
        if self._is_plugged:
            return find_plugin(self.arch, Backbone).stride
        return BACKBONES[self.arch].stride(self.num_stages)

    @property
    def feature_channels(self) -> int:
        """Channels of the feature map."""
        if self._is_plugged:
            return find_plugin(self.arch, Backbone).channels
        return BACKBONES[self.arch].out_channels(self.num_stages)

    @property
    def feature_size(self) -> tuple[int, int]:
        """Height and width of the feature map of an image of `image_size`."""
        height, width = self.image_size
        return -(-height // self.stride), -(-width // self.stride)

    @property
    def descriptor_dim(self) -> int | None:
        """Length of a descriptor; None for a bare backbone."""
        return self.aggregator_dim if self.projection is None else self.projection

    @property
    def aggregator_dim(self) -> int | None:
        """The same before a projection."""
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
            case SALADConfig(num_clusters=clusters, cluster_dim=dim, token_dim=token_dim):
                return token_dim + clusters * dim
            case BoQConfig(proj_channels=channels, row_dim=rows):
                return channels * rows
            case Aggregator() as plugin:
                return plugin.descriptor_dim(self.feature_channels, self.feature_size)

    @property
    def aggregator_name(self) -> str | None:
        """Such as "MixVPR", or a plug-in's import path; None for a bare backbone."""
        if isinstance(self.aggregator, Aggregator):
            return saved_name(type(self.aggregator))
        return None if self.aggregator is None else self.aggregator.name

    @property
    def plugin(self) -> str | None:
        """The import path of the backbone or aggregator, if it is not the package's own."""
        if self._is_plugged:
            return self.arch
        return self.aggregator_name if isinstance(self.aggregator, Aggregator) else None

    def to_dict(self) -> dict[str, Any]:
        """This configuration as JSON values."""
        values = asdict(self)
        if self._is_plugged:
            saved_name(find_plugin(self.arch, Backbone))
        if self.aggregator is not None:
            values["aggregator"] = {"name": self.aggregator_name, **values["aggregator"]}
        values = {n: value for n, value in values.items() if (n, value) not in ADDED_SINCE.items()}
        return json.loads(json.dumps(values))  # lists for tuples, also of a plug-in's settings

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`; older files lack `interpolation`, which is "bilinear" then.

        Raises:
            InputError: Unknown, missing or ill-typed fields; the line names them.
        """
        found = values.keys() if isinstance(values, Mapping) else ()
        if {"model", "optimizer"} <= set(found):
            raise InputError(
                "expected a model's configuration, found a training run's; give the folder "
                "`model` of the run"
            )
        if found and not {"arch", "aggregator"} & set(found):
            raise InputError(
                "expected a model's configuration of mixvpr-jax, found another program's; convert "
                "its weights with mixvpr convert to-flax"
            )
        values = checked_fields(cls, values, LACKING)
        if isinstance(values["aggregator"], Mapping):
            aggregator = dict(values["aggregator"])
            name = aggregator.pop("name", None)
            if isinstance(name, str) and ":" in name:
                kind = find_plugin(name, Aggregator)
            else:
                require_known("aggregator name", name, AGGREGATORS)
                kind = AGGREGATORS[name]
            values["aggregator"] = kind(**checked_fields(kind, aggregator))
        return cls(**values)
