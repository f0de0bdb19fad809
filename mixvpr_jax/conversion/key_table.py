"""The key table between PyTorch's names and layouts and this project's, used both ways.

A row pairs a module of the official state_dict with its place in the Flax model; a layer kind says
how its arrays are named and laid out on either side. Everything here is names and NumPy arrays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import Interpolation

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Leaf:
    """One array of a layer: its name on either side, and the axes that turn one into the other."""

    torch: str
    flax: str
    to_flax: Callable[[np.ndarray], np.ndarray] = lambda array: array
    to_torch: Callable[[np.ndarray], np.ndarray] = lambda array: array


CONV = (  # OIHW ↔ HWIO
    Leaf("weight", "kernel", lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)),
)
LINEAR = (  # out x in ↔ in x out
    Leaf("weight", "kernel", np.transpose, np.transpose),
    Leaf("bias", "bias"),
)
POINTWISE = (  # a 1x1 convolution with a bias, a Linear here
    Leaf("weight", "kernel", lambda w: w.reshape(w.shape[:2]).T, lambda w: w.T[:, :, None, None]),
    Leaf("bias", "bias"),
)
LAYER_NORM = (Leaf("weight", "scale"), Leaf("bias", "bias"))
BATCH_NORM = (*LAYER_NORM, Leaf("running_mean", "mean"), Leaf("running_var", "var"))
GEM = (Leaf("p", "p"),)

# Official module, its place in the Flax model, layer kind. {…} stands for a number.
KEY_TABLE = (
    ("backbone.model.conv1", "backbone.conv1", CONV),
    ("backbone.model.bn1", "backbone.bn1", BATCH_NORM),
    ("backbone.model.layer{s}.{i}.conv{j}", "backbone.layer{s}.{i}.conv{j}", CONV),
    ("backbone.model.layer{s}.{i}.bn{j}", "backbone.layer{s}.{i}.bn{j}", BATCH_NORM),
    ("backbone.model.layer{s}.{i}.downsample.0", "backbone.layer{s}.{i}.downsample.conv", CONV),
    ("backbone.model.layer{s}.{i}.downsample.1", "backbone.layer{s}.{i}.downsample.bn", BATCH_NORM),
    ("aggregator.mix.{i}.mix.0", "aggregator.mix.{i}.norm", LAYER_NORM),
    ("aggregator.mix.{i}.mix.1", "aggregator.mix.{i}.expand", LINEAR),
    ("aggregator.mix.{i}.mix.3", "aggregator.mix.{i}.project", LINEAR),
    ("aggregator.channel_proj", "aggregator.channel_proj", LINEAR),
    ("aggregator.row_proj", "aggregator.row_proj", LINEAR),
    ("aggregator.channel_pool", "aggregator.channel_pool", POINTWISE),
    ("aggregator.gem", "aggregator.gem", GEM),
    ("aggregator.fc", "aggregator.fc", LINEAR),
    ("aggregator", "aggregator", GEM),
)


def flax_name(torch_name: str) -> str | None:
    """The Flax name of an official one; None where the table has no row for it."""
    found = _lookup(torch_name, _TO_FLAX)
    return found and found[0]


def torch_name(flax_name: str) -> str | None:
    """The official name of a Flax one; None where the table has no row for it."""
    found = _lookup(flax_name, _TO_TORCH)
    return found and found[0]


def to_flax(state: Mapping[str, np.ndarray]) -> Weights:
    """Renames and transposes an official state_dict (without `num_batches_tracked`).

    Args:
        state: Official names and arrays in PyTorch's layout.

    Returns:
        Flax names (joined by dots) and arrays in Flax's layout, contiguous. An entry that the table
        does not hold stays as it is: nothing is lost on the way to the strict check.

    Raises:
        InputError: An array with another number of axes than its layer has.
    """
    return _convert(state, _TO_FLAX, lambda leaf: leaf.to_flax)


def to_torch(weights: Mapping[str, np.ndarray]) -> Weights:
    """The inverse of `to_flax`, with the batch counters that PyTorch keeps beside running_var."""
    state = _convert(weights, _TO_TORCH, lambda leaf: leaf.to_torch)
    complete: Weights = {}
    for name, array in state.items():
        complete[name] = array
        if name.endswith(".running_var"):
            counter = name.removesuffix("running_var") + "num_batches_tracked"
            complete[counter] = np.zeros((), np.int64)
    return complete


def _convert(arrays: Mapping[str, np.ndarray], rows: list, way: Callable) -> Weights:
    converted = {}
    for name, array in arrays.items():
        found = _lookup(name, rows)
        if found is None:
            converted[name] = array
            continue
        new_name, leaf = found
        try:
            converted[new_name] = np.ascontiguousarray(way(leaf)(array))
        except (ValueError, IndexError):
            raise InputError(f"{name}: found an array of shape {list(array.shape)}") from None
    return converted


def _lookup(name: str, rows: list[tuple[re.Pattern[str], str, Leaf]]) -> tuple[str, Leaf] | None:
    for pattern, template, leaf in rows:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict()), leaf
    return None


def _rows(to_flax: bool) -> list[tuple[re.Pattern[str], str, Leaf]]:
    rows = []
    for torch_module, flax_module, kind in KEY_TABLE:
        for leaf in kind:
            sides = [f"{torch_module}.{leaf.torch}", f"{flax_module}.{leaf.flax}"]
            source, target = sides if to_flax else reversed(sides)
            pattern = re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(source))
            rows.append((re.compile(pattern), target, leaf))
    return rows


_TO_FLAX = _rows(to_flax=True)
_TO_TORCH = _rows(to_flax=False)


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


def _from_backbone(state: Weights) -> Weights:
    return {f"backbone.model.{name}": array for name, array in state.items()}


BACKBONE = Layout(
    "torchvision backbone",
    "conv1.weight",
    _from_backbone,
    prefix=r"((model|net|network|backbone)\.)*",
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
    BACKBONE,
)
