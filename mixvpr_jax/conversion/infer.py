"""A model's configuration, from the shapes of its weights and a checkpoint's hyper-parameters.

Lightning stores hyper-parameters in a checkpoint: those of MixVPR and gsv-cities lie flat, with the
data module's apart; OpenVPRLab's are its configuration file. They are what a stranger wrote.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixvpr_jax.conversion.formats import Checkpoint, values_within
from mixvpr_jax.conversion.infer_shapes import infer_aggregator, infer_backbone, projection_of
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.backbones import BACKBONES, VITS
from mixvpr_jax.models.config import (
    AGGREGATORS,
    ConvAPConfig,
    GeMConfig,
    MixVPRConfig,
    ModelConfig,
    OwnAggregatorConfig,
    SALADConfig,
)
from mixvpr_jax.preprocess import IMAGENET_MEAN, IMAGENET_STD

Size = tuple[int, int]  # height and width
_IMAGENETS = np.stack([IMAGENET_MEAN, IMAGENET_STD]).astype(np.float64).round(4)
_ARCHS = {"resnext50": "resnext50_32x4d"}  # as OpenVPRLab calls it
_INNER = ("hyper_parameters", "args", "cfg", "config", "hparams", "opt", "model")
_OF_DATA = ("datamodule_hyper_parameters", "datamodule", "data", "dataset")  # hold those of images
_SIZES = ("val_image_size", "image_size", "img_size", "train_image_size")
_SIDES = {"image_height": "image_width", "img_height": "img_width", "img_h": "img_w"}
_OF_IMAGES = re.compile(  # names of settings that change the images that a model takes
    r"\w*(interpolation|resample|resize|transforms?|bgr|gr[ae]yscale"
    r"|(image|img|input|crop|test)_?(size|sz|shape|height|width|h|w|res|pct)"
    r"|(?<![a-z])im_?size|resolution|cent(er|re)_?crop)"
    r"|((norm|normali[sz](e|ation)|images?|imagenet|img|pixel|rgb|colou?r|channel|data|dataset|input"
    r"|train|val|test|default|clip|mean)_?)*(mean|std|normali[sz]e)", re.IGNORECASE,
)  # fmt: skip
# What repositories call the aggregators whose weights are known.
_CALLED = {kind.name.lower(): kind for kind in AGGREGATORS.values()} | {"gempool": GeMConfig}


def infer_config(
    checkpoint: Checkpoint,
    *,
    image_size: Size | None = None,
    in_size: Size | None = None,
    pool_size: Size | None = None,
) -> ModelConfig:
    """The configuration whose weights these are; stages that it cuts move to `dropped`.

    Each size, of images (pixels), feature map and ConvAP's cells, is what is given, else what the
    hyper-parameters tell, else assumed and noted. MixVPR's weights tell the map's product alone.
    """
    for size in (image_size, in_size, pool_size):
        if size is not None and min(size) < 1:
            raise InputError(f"expected a size of two numbers above 0, found {size[0]} {size[1]}")
    told = read_hyper_parameters(checkpoint.settings)
    checkpoint.notes.extend(told.notes)
    aggregator, in_channels = infer_aggregator(checkpoint, pool_size or told.pool_size)
    _require_told(checkpoint, told.aggregator, aggregator)
    arch, crop = infer_backbone(checkpoint, told.arch, told.num_cropped, in_channels)
    layout = checkpoint.layout
    interpolation = told.interpolation or layout.interpolation
    if interpolation != "bilinear":
        source = "the hyper-parameters" if told.interpolation else layout.name
        checkpoint.notes.append(f"images are resized with a {interpolation} filter, as in {source}")
    elif aggregator == ConvAPConfig(1024) and not told.interpolation:
        checkpoint.notes.append(
            "images are resized with a bilinear filter, as in gsv-cities' code; its released model "
            "of 4,096 values was trained with a bicubic one (interpolation in config.json)"
        )
    final_norm = layout.final_norm and not (arch in VITS and told.final_norm is False)
    if not final_norm:
        checkpoint.notes.append("the last LayerNorm is skipped, as in the checkpoint's own code")
    projection = projection_of(checkpoint)  # of MegaLoc, whose code always has that LayerNorm
    if arch in VITS and aggregator and final_norm and told.final_norm is None and not projection:
        checkpoint.notes.append(
            "the last LayerNorm is taken as applied, as in SALAD's models (norm_layer=True)"
        )
    config = ModelConfig(
        arch,
        crop,
        aggregator,
        BACKBONES[arch].nearest_size(*layout.image_size),
        interpolation=interpolation,
        projection=projection,
        final_norm=final_norm,
    )
    size = image_size or told.image_size
    if size is None:
        size = _largest_images(checkpoint, config, in_size, told.map_size)
    else:
        map_size = None if image_size else told.map_size  # what is given has the last word
        where = "" if image_size else " in the hyper-parameters"
        _require_map(checkpoint, replace(config, image_size=size), where, in_size, map_size)
        of_salad = isinstance(aggregator, SALADConfig) and layout.final_norm
        if of_salad and not image_size and size != config.image_size:
            checkpoint.notes.append(
                f"images of {_by(size)}, as in training; SALAD's authors evaluate with "
                f"{_by(config.image_size)} (--image-size H W)"
            )
    return replace(config, image_size=size)


# Hyper-parameters ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What hyper-parameters tell; None is what they do not."""

    arch: str | None
    num_cropped: int | None  # stages of the backbone
    aggregator: str | None  # as the repository calls it
    map_size: Size | None  # of the feature map that MixVPR was made for
    pool_size: Size | None  # ConvAP's cells
    image_size: Size | None  # pixels, for evaluation
    interpolation: Any  # as it is named, which ModelConfig checks
    final_norm: bool | None  # whether tokens pass DINOv2's last LayerNorm
    notes: list[str]


def read_hyper_parameters(values: Any) -> Told:
    """Understands what lies beside a checkpoint's weights, `hyper_parameters` among it.

    Refuses images that were normalised otherwise than by ImageNet's mean and deviation.
    """
    notes: list[str] = []
    own = _settings(values)
    arch = _at(own, "backbone_arch") or _at(own, "backbone", "params", "backbone_name")
    aggregator = _at(own, "agg_arch") or _at(own, "aggregator", "class")
    cropped = _at(own, "layers_to_crop")
    is_crop = isinstance(cropped, list | tuple) and list(cropped) in ([], [4], [3, 4], [4, 3])
    backbone = _at(own, "backbone_config")  # of SALAD's code: no norm_layer unless it says so
    norm = backbone.get("norm_layer", False) if isinstance(backbone, Mapping) else None
    data = [part for each in own for name in _OF_DATA for part in _settings(each.get(name))] + own
    _require_imagenets(data, notes)
    filters = [x for each in data if isinstance(x := each.get("interpolation"), str) and x]
    filters = [x.lower().rpartition(".")[2] for x in filters]
    read = {id(each) for values in data for each in (values, values.get("mean_std"))}
    names = {"mean_std", "mean", "std", *_SIZES, *_SIDES, *_SIDES.values()}
    names |= {"interpolation"} if filters else set()
    unread = {
        name
        for each in values_within(values)
        if isinstance(each, Mapping)
        for name, value in each.items()
        if type(name) is str and value is not None and _OF_IMAGES.fullmatch(name)
        if name not in names or id(each) not in read
    }
    if unread:
        line = "hyper-parameters not read, though they may change images"
        notes.append(f"{line}: {', '.join(sorted(unread)):.100}")
    settings = [_at(own, "agg_config") or _at(own, "aggregator", "params"), *own]
    return Told(
        arch=_ARCHS.get(arch.lower(), arch.lower()) if isinstance(arch, str) else None,
        num_cropped=len(cropped) if is_crop else None,
        aggregator=aggregator if isinstance(aggregator, str) else None,
        map_size=_pair(settings, "in_h", "in_w", notes),
        pool_size=_pair(settings, "s1", "s2", notes, default=2),  # as the class's own
        image_size=_image_size(data, notes),
        interpolation=_first("interpolation", filters, notes),
        final_norm=norm if isinstance(norm, bool) else None,
        notes=notes,
    )


def _settings(values: Any) -> list[Mapping[Any, Any]]:
    """Settings and, after them, those within one, as `config` of a module may be."""
    found = [values] if isinstance(values, Mapping) else []
    for each in found:
        for inner in map(each.get, _INNER):
            if isinstance(inner, Mapping) and not any(inner is other for other in found):
                found.append(inner)
    return found


def _at(settings: Iterable[Any], *names: str) -> Any:
    """What the first of several settings that has it says under a name, or names in names."""
    for values in settings:
        for name in names:
            values = values.get(name) if isinstance(values, Mapping) else None
        if values is not None:
            return values
    return None


def _first(what: str, found: list[Any], notes: list[str]) -> Any:
    """The first of what several settings say; the others are noted."""
    if others := {repr(other): "" for other in found if other != found[0]}:
        notes.append(f"{what}: {found[0]!r} taken; settings also say {', '.join(others):.80}")
    return found[0] if found else None


def _require_imagenets(data: Iterable[Mapping[Any, Any]], notes: list[str]) -> None:
    """Holds the images' mean and deviation, where they are told, to those of `preprocess`."""
    told = [found for values in data if (found := values.get("mean_std")) is not None]
    for values in told + [each for each in data if each.get("mean") or each.get("std")]:
        found = [_channels(_at([values], name)) for name in ("mean", "std")]
        if None in found:
            notes.append("hyper-parameters: mean_std ignored: no valid mean and deviation")
        # of pixels up to 1, or up to 255
        elif np.abs(np.array(found) / [[[1]], [[255]]] - _IMAGENETS).max((1, 2)).min() > 1e-3:
            mean, std = _IMAGENETS.tolist()
            raise InputError(
                f"mean_std: expected images normalised by ImageNet's mean {mean} and deviation "
                f"{std}, as preprocess does, found {found[0]} and {found[1]} in the "
                "hyper-parameters; save the state_dict alone to convert it for images that you "
                "normalise yourself"
            )


def _channels(value: Any) -> list[float] | None:
    """Three numbers within the range of pixels; None for anything else."""
    is_three = isinstance(value, list | tuple) and len(value) == 3
    valid = is_three and all(type(n) in (int, float) and 0 <= n <= 255 for n in value)
    return list(value) if valid else None


def _pair(
    settings: list[Any], first: str, second: str, notes: list[str], default: int | None = None
) -> Size | None:
    """Two settings as a size; the default stands for one of them where the other is given."""
    pair = [_at(settings, name) for name in (first, second)]
    if all(value is None for value in pair):
        return None
    size = _size([default if value is None else value for value in pair])
    if size is None:
        notes.append(f"hyper-parameters: {first} and {second} ignored: no valid size")
    return size


def _image_size(data: Iterable[Mapping[Any, Any]], notes: list[str]) -> Size | None:
    """Of the first that says: the size of evaluation, else that of training."""
    found: list[Size] = []
    for values in data:
        told: dict[str, Size] = {}
        for name in _SIZES:
            is_one = isinstance(value := values.get(name), int | float)
            if (size := _size((value, value) if is_one else value)) is not None:
                told[name] = size
                if is_one:
                    notes.append(f"one number as {name} read as {_by(size)}")
            elif value is not None:
                notes.append(f"hyper-parameters: {name} ignored: no valid size")
        if size := told.get("val_image_size"):
            old = told.pop("train_image_size", size)
            if old != size:
                notes.append(f"images of {_by(size)}, as it was validated; trained with {_by(old)}")
        sides = (_pair([values], *names, notes) for names in _SIDES.items())
        found += [*told.values(), *filter(None, sides)]
    return _first("image size", found, notes)


def _size(value: Any) -> Size | None:
    """Two whole numbers up to 2¹⁶, which may be floats (320.0); None for anything else."""
    if isinstance(value, Mapping):
        value = [value.get(name) for name in ("height", "width")]
    elif isinstance(value, str):  # "(480, 640)", as YAML reads a tuple
        found = re.findall(r"^[(\[] *(\d{1,5}), *(\d{1,5})[)\]]$", value)
        value = [int(side) for pair in found for side in pair]
    two = isinstance(value, list | tuple) and len(value) == 2
    valid = two and all(type(n) in (int, float) and 0 < n <= 2**16 and n == int(n) for n in value)
    return (int(value[0]), int(value[1])) if valid else None


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


# Weights ------------------------------------------------------------------------------------------


def _require_told(
    checkpoint: Checkpoint, told: str | None, aggregator: OwnAggregatorConfig | None
) -> None:
    """Holds the aggregator that the weights are of to the one that the hyper-parameters name."""
    found = "no weights of an aggregator" if aggregator is None else f"weights of {aggregator.name}"
    kind = _CALLED.get(told.lower()) if told is not None else type(aggregator)
    if told is None and aggregator is None and not checkpoint.layout.is_bare:
        checkpoint.notes.append(f"{found}: taken as a bare backbone; an average has none, either")
    elif kind is None and aggregator is not None:
        checkpoint.notes.append(f"{found}, which the hyper-parameters call {told!r:.40}")
    elif kind is not type(aggregator):
        known = ", ".join(kind.name for kind in AGGREGATORS.values())
        raise InputError(
            f"aggregator: expected one of {known} by weights and hyper-parameters alike, found "
            f"{found} and {told!r:.40} in the hyper-parameters"
        )


def _largest_images(
    checkpoint: Checkpoint, config: ModelConfig, in_size: Size | None, told: Size | None
) -> Size:
    """The largest images whose feature map the weights fit, else the usual ones."""
    notes, positions = checkpoint.notes, _positions(checkpoint, config)
    if positions is not None:
        in_size = in_size or told
        if in_size is None and (side := math.isqrt(positions)) ** 2 == positions:
            in_size = (side, side)
            line = f"a map of {positions} positions taken as {_by(in_size)}"
            notes.append(f"{line} (--in-size H W for another)")
        if in_size is None:
            raise InputError(
                f"feature map: {positions} positions are no square: give its height and width with "
                "--in-size H W, or those of images with --image-size H W"
            )
        if math.prod(in_size) != positions:
            raise InputError(
                f"feature map: expected {positions} positions, found {_by(in_size)}; "
                "give its height and width with --in-size H W"
            )
    size, why = config.image_size, "as is usual"
    if in_size is not None:
        size = in_size[0] * config.stride, in_size[1] * config.stride
        why = f"the largest with a map of {_by(in_size)}"
    notes.append(f"images taken as {_by(size)}, {why} (--image-size H W for another size)")
    return size


def _require_map(
    checkpoint: Checkpoint, config: ModelConfig, where: str, given: Size | None, told: Size | None
) -> None:
    found, positions = config.feature_size, _positions(checkpoint, config)
    must = [
        f"{name} say {_by(size)}"
        for name, size in (("--in-size", given), ("in_h and in_w", told))
        if size is not None and tuple(size) != found
    ]
    if positions not in (None, math.prod(found)):
        must.append(f"MixVPR's weights are for {positions:,} positions")
    if must:
        raise InputError(
            f"images of {_by(config.image_size)}{where} make a feature map of {_by(found)}, "
            f"{must[0]}; give the right size with --image-size H W"
        )


def _positions(checkpoint: Checkpoint, config: ModelConfig) -> int | None:
    """Of the feature map that MixVPR's weights are for."""
    is_mixvpr = isinstance(config.aggregator, MixVPRConfig)
    return checkpoint.shape("aggregator.row_proj.weight", 2)[1] if is_mixvpr else None
