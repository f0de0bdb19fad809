"""How repositories name the weights of the same network: told apart, and renamed to the official.

Official are the names of MixVPR and gsv-cities; `torch_weights` turns them into this project's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mixvpr_jax.config import Interpolation
from mixvpr_jax.errors import InputError
from mixvpr_jax.torch_weights import Weights

# Modules around the whole network or a part of it: of DistributedDataParallel and torch.compile.
_WRAPPERS = ("module", "_orig_mod")


@dataclass(frozen=True)
class Layout:
    """How a repository names weights, and how it resizes images.

    Attributes:
        name: Whose it is, for people.
        anchor: What it calls the stem's convolution.
        official: Renames a state_dict to the official names; names of no known place stay.
        prefix: What may stand before the names, where the network is a part of something larger.
        interpolation: The filter that its images are resized by.
        image_size: Height and width that it evaluates at, unless a checkpoint tells.
    """

    name: str
    anchor: str
    official: Callable[[Weights], Weights]
    prefix: str = ".*"
    interpolation: Interpolation = "bilinear"
    image_size: tuple[int, int] = (320, 320)

    def prefix_of(self, name: str) -> str | None:
        """What stands before the anchor in a name that ends with it; None for other names."""
        prefix = name.removesuffix(self.anchor)
        fits = len(prefix) < len(name) and (not prefix or prefix.endswith("."))
        return prefix if fits and re.fullmatch(self.prefix, prefix) else None


def official_names(source: object, state: Mapping[str, np.ndarray]) -> tuple[Layout, Weights]:
    """Tells the layout of a state_dict and renames its entries to the official names.

    Args:
        source: Where it is from, for errors.
        state: The entries.

    Raises:
        InputError: No known layout, or more than one set of weights.
    """
    inner = {_without_wrappers(name): array for name, array in state.items()}
    if len(inner) < len(state):
        raise InputError(
            f"{source}: expected one set of weights, found two, with and without "
            f"{' or '.join(f'{wrapper}.' for wrapper in _WRAPPERS)}"
        )
    for layout in LAYOUTS:
        prefixes = [p for p in map(layout.prefix_of, inner) if p is not None]
        if len(prefixes) > 1:
            several = " and ".join(prefix + layout.anchor for prefix in prefixes[:4])
            raise InputError(
                f"{source}: expected one set of weights, found {several}; save one of them alone"
            )
        for prefix in prefixes:
            stripped = {name.removeprefix(prefix): array for name, array in inner.items()}
            if len(stripped) < len(inner):
                raise InputError(
                    f"{source}: two sets of weights, with and without the prefix {prefix!r}"
                )
            return layout, layout.official(stripped)
    anchors = ", ".join(layout.anchor for layout in LAYOUTS)
    raise InputError(f"{source}: expected one of the keys {anchors}; found {few(state)}")


def holds_weights(names: Iterable[object]) -> bool:
    """Whether names are those of a network's weights, of whatever layout."""
    texts = [_without_wrappers(name) for name in names if isinstance(name, str)]
    return any(layout.prefix_of(name) is not None for layout in LAYOUTS for name in texts)


def few(names: Iterable[object]) -> str:
    """The first of several names, as a part of a line."""
    texts = list(map(text, names))
    return f"{', '.join(texts[:3])}{', …' if len(texts) > 3 else ''}" or "none"


def text(value: object) -> str:
    """A name as text, whatever a stranger made a name."""
    try:
        return str(value)
    except ValueError:  # of integers of thousands of digits
        return type(value).__name__


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _from_openvprlab(state: Weights) -> Weights:
    """Stages in a row, the frozen ones first: 0 is the stem, s is layer{s}."""
    stem = {"0": "conv1", "1": "bn1"}
    pattern = re.compile(r"backbone\.(frozen|unfrozen)_layers\.(\d{1,4})\.(.+)")
    places = {name: match for name in state if (match := pattern.fullmatch(name))}
    frozen = (int(match[2]) for match in places.values() if match[1] == "frozen")
    num_frozen = 1 + max(frozen, default=-1)
    renamed = {}
    for name, array in state.items():
        if match := places.get(name):
            stage = int(match[2]) + (num_frozen if match[1] == "unfrozen" else 0)
            layer, _, rest = match[3].partition(".")
            place = stem.get(layer, layer) if stage == 0 else f"layer{stage}.{layer}"
            name = f"backbone.model.{place}.{rest}"
        renamed[name] = array
    return renamed


def to_openvprlab(state: Mapping[str, np.ndarray], unfrozen_blocks: int) -> Weights:
    """The inverse: official names as those of OpenVPRLab's modules.

    Args:
        state: Official names and arrays.
        unfrozen_blocks: OpenVPRLab's `num_unfrozen_blocks`: how many of the stem and the stages,
            counted from the end, are trained there, which decides how they are called.

    Raises:
        InputError: More blocks than there are.
    """
    pattern = re.compile(r"backbone\.model\.(conv1|bn1|layer(\d))\.(.+)")
    places = {name: match for name in state if (match := pattern.fullmatch(name))}
    num_blocks = 1 + max((int(match[2] or 0) for match in places.values()), default=0)
    if not 0 <= unfrozen_blocks <= num_blocks:
        raise InputError(f"unfrozen blocks: expected 0 to {num_blocks}, found {unfrozen_blocks}")
    num_frozen = num_blocks - unfrozen_blocks
    renamed = {}
    for name, array in state.items():
        if match := places.get(name):
            block = int(match[2] or 0)
            rest = match[3] if match[2] else f"{('conv1', 'bn1').index(match[1])}.{match[3]}"
            if block < num_frozen:
                name = f"backbone.frozen_layers.{block}.{rest}"
            else:
                name = f"backbone.unfrozen_layers.{block - num_frozen}.{rest}"
        renamed[name] = array
    return renamed


_COSPLACE_NAMES = {
    r"backbone\.0\.(.+)": r"backbone.model.conv1.\1",
    r"backbone\.1\.(.+)": r"backbone.model.bn1.\1",
    r"backbone\.4\.(.+)": r"backbone.model.layer1.\1",
    r"backbone\.5\.(.+)": r"backbone.model.layer2.\1",
    r"backbone\.6\.(.+)": r"backbone.model.layer3.\1",
    r"backbone\.7\.(.+)": r"backbone.model.layer4.\1",
    # The head is a list of five layers; in deep-visual-geo-localization-benchmark a list in a list.
    r"aggregation\.(1|0\.1)\.p": r"aggregator.gem.p",
    r"aggregation\.(1|3)\.(weight|bias)": r"aggregator.fc.\2",
}


def _from_cosplace(state: Weights) -> Weights:
    """A torchvision ResNet's children in a row, and behind them the layers of the head."""
    renamed = {}
    for name, array in state.items():
        for pattern, official in _COSPLACE_NAMES.items():
            if match := re.fullmatch(pattern, name):
                name = match.expand(official)
                break
        renamed[name] = array
    return renamed


def _from_trunk(state: Weights) -> Weights:
    return {f"backbone.model.{name}": array for name, array in state.items()}


TRUNK = Layout(
    "torchvision trunk", "conv1.weight", _from_trunk, prefix=r"((model|net|network|backbone)\.)*"
)
# The most specific first.
LAYOUTS = (
    Layout("official (MixVPR, gsv-cities)", "backbone.model.conv1.weight", dict),
    Layout(
        "OpenVPRLab",
        "backbone.frozen_layers.0.0.weight",
        _from_openvprlab,
        interpolation="bicubic",
    ),
    Layout(
        "OpenVPRLab, nothing frozen",
        "backbone.unfrozen_layers.0.0.weight",
        _from_openvprlab,
        interpolation="bicubic",
    ),
    Layout("CosPlace, EigenPlaces", "backbone.0.weight", _from_cosplace, image_size=(512, 512)),
    TRUNK,
)
