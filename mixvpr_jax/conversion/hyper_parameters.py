"""What the hyper-parameters of a checkpoint tell of its model, which no weight tells.

Lightning stores them in a checkpoint: those of MixVPR and gsv-cities lie flat, with the data
module's own beside them; OpenVPRLab's are its configuration file. They are what a stranger wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Size = tuple[int, int]

_LARGEST = 2**16  # pixels or positions along a side
_ARCHS = {"resnext50": "resnext50_32x4d"}  # as OpenVPRLab calls it


@dataclass(frozen=True)
class Told:
    """What hyper-parameters tell; None is what they do not.

    Attributes:
        arch: The backbone.
        num_cropped: How many of its stages are cut off.
        aggregator: What the repository calls the aggregator.
        map_size: Height and width of the feature map that MixVPR was made for.
        pool_size: ConvAP's cells.
        image_size: Height and width in pixels that images are resized to for evaluation.
        notes: What was passed over, or taken in some way.
    """

    arch: str | None = None
    num_cropped: int | None = None
    aggregator: str | None = None
    map_size: Size | None = None
    pool_size: Size | None = None
    image_size: Size | None = None
    notes: tuple[str, ...] = ()


def read_hyper_parameters(values: Any, of_data: Any) -> Told:
    """Understands a checkpoint's `hyper_parameters` and `datamodule_hyper_parameters`."""
    notes: list[str] = []
    arch = _at(values, "backbone_arch") or _at(values, "backbone", "params", "backbone_name")
    aggregator = _at(values, "agg_arch") or _at(values, "aggregator", "class")
    cropped = _at(values, "layers_to_crop")
    settings = _at(values, "agg_config") or _at(values, "aggregator", "params")
    data = [of_data, _at(values, "datamodule"), values]
    return Told(
        arch=_ARCHS.get(arch.lower(), arch.lower()) if isinstance(arch, str) else None,
        num_cropped=_num_cropped(cropped),
        aggregator=aggregator if isinstance(aggregator, str) else None,
        map_size=_pair(settings, "in_h", "in_w", notes),
        pool_size=_pair(settings, "s1", "s2", notes),
        image_size=_image_size(data, notes),
        notes=tuple(notes),
    )


def _at(values: Any, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _num_cropped(cropped: Any) -> int | None:
    known = isinstance(cropped, list | tuple) and list(cropped) in ([], [4], [3, 4], [4, 3])
    return len(cropped) if known else None


def _pair(settings: Any, first: str, second: str, notes: list[str]) -> Size | None:
    pair = _at(settings, first), _at(settings, second)
    if pair == (None, None):
        return None
    if _is_size(pair):
        return pair
    notes.append(f"hyper-parameters: {first} and {second} passed over, which are no sizes")
    return None


def _image_size(data: list[Any], notes: list[str]) -> Size | None:
    """Of the first that says: the size of evaluation, else that of training."""
    for values in data:
        for name in ("val_image_size", "image_size", "train_image_size"):
            found = _at(values, name)
            if found is None:
                continue
            size = (found, found) if type(found) is int else found
            if not _is_size(size):
                notes.append(f"hyper-parameters: {name} passed over, which is no size")
                continue
            height, width = size
            if type(found) is int:
                notes.append(f"one number as {name} read as {height}x{width}")
            trained = _at(values, "train_image_size")
            if name == "val_image_size" and _is_size(trained) and tuple(trained) != (height, width):
                notes.append(
                    f"images of {height}x{width}, as it was validated; trained with "
                    f"{trained[0]}x{trained[1]}"
                )
            return height, width
    return None


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(type(number) is int and 0 < number <= _LARGEST for number in value)
    )
