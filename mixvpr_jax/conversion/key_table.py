"""The key table between PyTorch's names and layouts and this project's, used both ways.

A row pairs a module of the official state_dict with its place in the Flax model; a layer kind says
how its arrays are named and laid out on either side. Everything here is names and NumPy arrays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mixvpr_jax.conversion.dinov2_names import from_hugging_face, from_timm
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.backbones import PATCH
from mixvpr_jax.models.config import Interpolation

Weights = dict[str, np.ndarray]
_Change = Callable[[np.ndarray], np.ndarray]


class Leaf(NamedTuple):
    """One array of a layer: its name on either side, and the axes that turn one into the other."""

    torch: str
    flax: str
    to_flax: _Change = np.asarray
    to_torch: _Change = np.asarray


CONV = (  # OIHW ↔ HWIO
    Leaf("weight", "kernel", lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)),
)
LINEAR = (Leaf("weight", "kernel", np.transpose, np.transpose), Leaf("bias", "bias"))  # OI ↔ IO
POINTWISE = (  # a 1x1 convolution with a bias, a Linear here
    Leaf("weight", "kernel", lambda w: w.reshape(w.shape[:2]).T, lambda w: w.T[:, :, None, None]),
    Leaf("bias", "bias"),
)
PATCHES = (  # a convolution with a stride of its size, a Linear here
    Leaf(
        "weight",
        "kernel",
        lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]),
        lambda w: w.reshape(PATCH, PATCH, 3, -1).transpose(3, 2, 0, 1),
    ),
    Leaf("bias", "bias"),
)
LAYER_NORM = (Leaf("weight", "scale"), Leaf("bias", "bias"))
BATCH_NORM = (*LAYER_NORM, Leaf("running_mean", "mean"), Leaf("running_var", "var"))
GEM = (Leaf("p", "p"),)
SCALE = (Leaf("gamma", "gamma"),)
TOKENS = tuple(Leaf(n, n) for n in ("cls_token", "pos_embed", "register_tokens", "mask_token"))

# Official module, its place in the Flax model, layer kind. {…} stands for a number.
KEY_TABLE = (
    ("backbone.model.conv1", "backbone.conv1", CONV),
    ("backbone.model.bn1", "backbone.bn1", BATCH_NORM),
    ("backbone.model.layer{s}.{i}.conv{j}", "backbone.layer{s}.{i}.conv{j}", CONV),
    ("backbone.model.layer{s}.{i}.bn{j}", "backbone.layer{s}.{i}.bn{j}", BATCH_NORM),
    ("backbone.model.layer{s}.{i}.downsample.0", "backbone.layer{s}.{i}.downsample.conv", CONV),
    ("backbone.model.layer{s}.{i}.downsample.1", "backbone.layer{s}.{i}.downsample.bn", BATCH_NORM),
    ("backbone.model", "backbone", TOKENS),
    ("backbone.model.patch_embed.proj", "backbone.patch_embed.proj", PATCHES),
    ("backbone.model.blocks.{i}.norm{j}", "backbone.blocks.{i}.norm{j}", LAYER_NORM),
    ("backbone.model.blocks.{i}.attn.qkv", "backbone.blocks.{i}.attn.qkv", LINEAR),
    ("backbone.model.blocks.{i}.attn.proj", "backbone.blocks.{i}.attn.proj", LINEAR),
    ("backbone.model.blocks.{i}.ls{j}", "backbone.blocks.{i}.ls{j}", SCALE),
    ("backbone.model.blocks.{i}.mlp.fc{j}", "backbone.blocks.{i}.mlp.fc{j}", LINEAR),
    ("backbone.model.blocks.{i}.mlp.w{j}", "backbone.blocks.{i}.mlp.w{j}", LINEAR),
    ("backbone.model.norm", "backbone.norm", LAYER_NORM),
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


def torch_name(flax_name: str) -> str | None:
    """The official name of a Flax one; None where the table has no row for it."""
    found = _lookup(flax_name, _TO_TORCH)
    return found and found[0]


def to_flax(state: Mapping[str, np.ndarray]) -> Weights:
    """Renames and transposes an official state_dict (without `num_batches_tracked`).

    An entry that the table does not hold stays as it is, for the strict check to refuse.

    Raises:
        InputError: An array with another number of axes than its layer has.
    """
    return _convert(state, _TO_FLAX)


def to_torch(weights: Mapping[str, np.ndarray]) -> Weights:
    """The inverse of `to_flax`, with the batch counters that PyTorch keeps with running_var."""
    complete: Weights = {}
    for name, array in _convert(weights, _TO_TORCH).items():
        complete[name] = array
        if name.endswith(".running_var"):
            counter = name.removesuffix("running_var") + "num_batches_tracked"
            complete[counter] = np.zeros((), np.int64)
    return complete


_Rows = list[tuple[re.Pattern[str], str, _Change]]  # a name, the other side's, the other layout


def _convert(arrays: Mapping[str, np.ndarray], rows: _Rows) -> Weights:
    converted = {}
    for name, array in arrays.items():
        if (found := _lookup(name, rows)) is None:
            converted[name] = array
            continue
        new_name, change = found
        try:
            converted[new_name] = np.ascontiguousarray(change(array))
        except (ValueError, IndexError):
            raise InputError(f"{name}: found an array of shape {list(array.shape)}") from None
    return converted


def _lookup(name: str, rows: _Rows) -> tuple[str, _Change] | None:
    for pattern, template, change in rows:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict()), change
    return None


def _rows(source: int) -> _Rows:
    """The rows for names of one side: 0 is PyTorch's, 1 is Flax's."""
    rows = []
    for torch_module, flax_module, kind in KEY_TABLE:
        for leaf in kind:
            names = f"{torch_module}.{leaf.torch}", f"{flax_module}.{leaf.flax}"
            changes = leaf.to_flax, leaf.to_torch
            pattern = re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(names[source]))
            rows.append((re.compile(pattern), names[1 - source], changes[source]))
    return rows


_TO_FLAX, _TO_TORCH = _rows(0), _rows(1)


# The names of other repositories ------------------------------------------------------------------

# Modules around the network or a part of it: of DistributedDataParallel and torch.compile.
_WRAPPERS = ("module", "_orig_mod")


@dataclass(frozen=True)
class Layout:
    """How a repository names weights, and how it resizes images."""

    name: str
    anchor: str  # the first convolution
    modules: Callable[[Iterable[str]], Mapping[str, str]]  # of all names, its prefix → official
    interpolation: Interpolation = "bilinear"
    image_size: tuple[int, int] = (320, 320)  # unless a checkpoint tells
    is_bare: bool = False  # a backbone alone
    arranged: Callable[[Mapping[str, np.ndarray], str], Weights] | None = None  # beforehand
    prefix: str = ".*"  # may precede the names, where the network is a part of something larger

    def prefix_of(self, name: str) -> str | None:
        """What precedes the anchor in a name that ends with it; None for other names."""
        prefix = name.removesuffix(self.anchor)
        fits = len(prefix) < len(name) and (not prefix or prefix.endswith("."))
        return prefix if fits and re.fullmatch(self.prefix, prefix) else None


def official_names(state: Mapping[str, np.ndarray]) -> tuple[Layout, Weights]:
    """The layout of a state_dict and its entries under official names; unknown names stay.

    Raises:
        InputError: No known layout, or more than one set of weights.
    """
    inner = _renamed(state, _without_wrappers)
    for layout in LAYOUTS:
        prefixes = [p for p in map(layout.prefix_of, inner) if p is not None]
        if len(prefixes) > 1:
            several = " and ".join(prefix + layout.anchor for prefix in prefixes[:4])
            raise InputError(f"expected one set of weights, found {several}; save one alone")
        for prefix in prefixes:
            if layout.arranged is not None:
                inner = layout.arranged(inner, prefix)
            own = _renamed(inner, partial(_replaced, {prefix: ""}))
            return layout, _renamed(own, partial(_replaced, layout.modules(own)))
    anchors = ", ".join(layout.anchor for layout in LAYOUTS)
    raise InputError(f"expected one of the keys {anchors}; found {few(state)}")


def _renamed(state: Mapping[str, np.ndarray], rename: Callable[[str], str]) -> Weights:
    names: dict[str, str] = {}
    for name in state:
        if (other := names.setdefault(rename(name), name)) != name:
            raise InputError(f"expected one set of weights, found both {other} and {name}")
    return {new: state[name] for new, name in names.items()}


def _replaced(modules: Mapping[str, str], name: str) -> str:
    for module, official in modules.items():
        if name.startswith(module):
            return official + name.removeprefix(module)
    return name


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def holds_weights(names: Iterable[object]) -> bool:
    """Whether names are those of a network's weights, of whatever layout."""
    texts = [_without_wrappers(name) for name in names if isinstance(name, str)]
    return any(layout.prefix_of(name) is not None for layout in LAYOUTS for name in texts)


def few(names: Iterable[object]) -> str:
    """The first of several names, as a part of a line."""
    texts = list(map(text, names))
    return ", ".join([*texts[:3], *(["…"] if len(texts) > 3 else [])]) or "none"


def text(value: object) -> str:
    """A name as text, whatever a stranger made a name."""
    try:
        return str(value)
    except ValueError:  # of integers of thousands of digits
        return type(value).__name__


def to_openvprlab(state: Mapping[str, np.ndarray], unfrozen_blocks: int) -> Weights:
    """An official state_dict under OpenVPRLab's names, given its `num_unfrozen_blocks`.

    That many of the stem and the stages, counted from the end, are trained there; InputError if
    there are fewer.
    """
    if f"backbone.model.{_PATCHES}" in state:  # whose blocks keep their numbers
        return _renamed(state, partial(_replaced, {"backbone.model.": _OPENVPRLAB_DINO}))
    stages = (re.match(r"backbone\.model\.layer(\d)\.", name) for name in state)
    num_blocks = 1 + max((int(match[1]) for match in stages if match), default=0)
    if not 0 <= unfrozen_blocks <= num_blocks:
        raise InputError(f"unfrozen blocks: expected 0 to {num_blocks}, found {unfrozen_blocks}")
    modules = _openvprlab_modules(num_blocks - unfrozen_blocks)
    official = {official: module for module, official in modules.items()}
    return _renamed(state, partial(_replaced, official))


def _openvprlab_modules(num_frozen: int) -> dict[str, str]:
    """OpenVPRLab's blocks, the stem and the stages, are numbered anew after the frozen ones."""
    blocks = [f"backbone.frozen_layers.{block}." for block in range(num_frozen)]
    blocks += [f"backbone.unfrozen_layers.{block}." for block in range(5)]
    modules = {f"{blocks[0]}0.": "backbone.model.conv1.", f"{blocks[0]}1.": "backbone.model.bn1."}
    return modules | {b: f"backbone.model.layer{i}." for i, b in enumerate(blocks) if i > 0}


def _openvprlab(names: Iterable[str]) -> dict[str, str]:
    frozen = (re.match(r"backbone\.frozen_layers\.(\d)\.", name) for name in names)
    return _openvprlab_modules(1 + max((int(match[1]) for match in frozen if match), default=-1))


_COSPLACE = {  # a torchvision ResNet's children in a row, and the layers of the head
    "backbone.0.": "backbone.model.conv1.",
    "backbone.1.": "backbone.model.bn1.",
    **{f"backbone.{stage + 3}.": f"backbone.model.layer{stage}." for stage in (1, 2, 3, 4)},
    # The head is a list of five layers; in deep-visual-geo-localization-benchmark a list in a list.
    "aggregation.1.p": "aggregator.gem.p",
    "aggregation.0.1.p": "aggregator.gem.p",
    "aggregation.1.": "aggregator.fc.",
    "aggregation.3.": "aggregator.fc.",
}
_PATCHES, _OPENVPRLAB_DINO = "patch_embed.proj.weight", "backbone.dino."
_AROUND = r"((model|net|network|backbone|dinov2|dinov2_with_registers)\.)*"
_BARE: dict[str, Any] = {
    "modules": lambda _: {"": "backbone.model."},
    "is_bare": True,
    "prefix": _AROUND,
}
# The most specific first.
LAYOUTS = (
    Layout("official (MixVPR, gsv-cities)", "backbone.model.conv1.weight", lambda _: {}),
    Layout("OpenVPRLab", "backbone.frozen_layers.0.0.weight", _openvprlab, "bicubic"),
    Layout(
        "OpenVPRLab, nothing frozen", "backbone.unfrozen_layers.0.0.weight", _openvprlab, "bicubic"
    ),
    Layout(
        "CosPlace, EigenPlaces", "backbone.0.weight", lambda _: _COSPLACE, image_size=(512, 512)
    ),
    Layout("DINOv2", f"backbone.model.{_PATCHES}", lambda _: {}, image_size=(322, 322)),
    Layout(
        "DINOv2, OpenVPRLab",
        f"backbone.dino.{_PATCHES}",
        lambda _: {_OPENVPRLAB_DINO: "backbone.model."},
        "bicubic",
        (322, 322),
    ),
    Layout("torchvision backbone", "conv1.weight", **_BARE),
    Layout("DINOv2 backbone", _PATCHES, **_BARE, image_size=(322, 322), arranged=from_timm),
    Layout(
        "DINOv2 backbone, Hugging Face",
        "embeddings.patch_embeddings.projection.weight",
        **_BARE,
        image_size=(322, 322),
        arranged=from_hugging_face,
    ),
)
