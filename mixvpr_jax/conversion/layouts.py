"""The names that repositories give weights, into official names and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mixvpr_jax.conversion.transformer_names import (
    from_earlier_timm,
    from_hugging_face,
    from_timm,
    renamed,
    with_mask_token,
)
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import BoQConfig, Interpolation, ModelConfig

Weights = dict[str, np.ndarray]
LayoutName = Literal["official", "openvprlab"]  # of files that we write

# Modules around the network or a part of it: of DistributedDataParallel and torch.compile.
_WRAPPERS = ("module", "_orig_mod")


@dataclass(frozen=True)
class Layout:
    """How a repository names weights, and how it resizes images."""

    name: str
    anchor: str  # the first convolution
    # Of all names: the prefixes of modules, and the official ones.
    modules: Callable[[Iterable[str]], Mapping[str, str]] = lambda _: {}
    interpolation: Interpolation = "bilinear"
    image_size: tuple[int, int] = (320, 320)  # unless a checkpoint tells
    is_bare: bool = False  # a backbone alone
    final_norm: bool = True  # of a transformer's tokens
    arranged: Callable[[Weights], Weights] = dict  # after renaming
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
    inner = renamed(state, _without_wrappers)
    for layout in LAYOUTS:
        prefixes = [p for p in map(layout.prefix_of, inner) if p is not None]
        if len(prefixes) > 1:
            several = " and ".join(prefix + layout.anchor for prefix in prefixes[:4])
            raise InputError(f"expected one set of weights, found {several}; save one alone")
        for prefix in prefixes:
            own = _moved(inner, {prefix: ""})
            named = _moved(own, layout.modules(own))
            try:
                return layout, layout.arranged(named)
            except (ValueError, IndexError, TypeError) as error:  # of shapes
                raise InputError(
                    f"expected weights of a transformer, found other shapes: {error}"
                ) from None
    anchors = ", ".join(layout.anchor for layout in LAYOUTS)
    raise InputError(f"expected one of the keys {anchors}; found {few(state)}")


def _moved(state: Mapping[str, np.ndarray], modules: Mapping[str, str]) -> Weights:
    """Renames modules: of prefixes of a name, the first that fits gives way to the other."""

    def rename(name: str) -> str:
        for module, other in modules.items():
            if name.startswith(module):
                return other + name.removeprefix(module)
        return name

    return renamed(state, rename)


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


def count_modules(pattern: str, names: Iterable[str]) -> int:
    """The number of modules, numbered from 0; the pattern's group is the number in a name."""
    return 1 + max((int(match[1]) for n in names if (match := re.match(pattern, n))), default=-1)


def to_openvprlab(state: Mapping[str, np.ndarray], unfrozen_blocks: int) -> Weights:
    """An official state_dict under OpenVPRLab's names, given its `num_unfrozen_blocks`.

    That many of the stem and the stages, counted from the end, are trained there; InputError if
    there are fewer.
    """
    if "backbone.model.cls_token" in state:  # whose blocks keep their numbers
        return _moved(state, {"backbone.model.": _OPENVPRLAB_DINO})
    if "backbone.model.conv1.weight" not in state:
        raise InputError("OpenVPRLab: expected a ResNet or DINOv2, which it has, found neither")
    num_blocks = count_modules(r"backbone\.model\.layer(\d)\.", state)  # the stem is block 0
    if not 0 <= unfrozen_blocks <= num_blocks:
        raise InputError(f"unfrozen blocks: expected 0 to {num_blocks}, found {unfrozen_blocks}")
    modules = _openvprlab_modules(num_blocks - unfrozen_blocks)
    official = {official: module for module, official in modules.items()}
    return _moved(state, official)


def _openvprlab_modules(num_frozen: int) -> dict[str, str]:
    """OpenVPRLab's blocks, the stem and the stages, are numbered anew after the frozen ones."""
    blocks = [f"backbone.frozen_layers.{block}." for block in range(num_frozen)]
    blocks += [f"backbone.unfrozen_layers.{block}." for block in range(5)]
    modules = {f"{blocks[0]}0.": "backbone.model.conv1.", f"{blocks[0]}1.": "backbone.model.bn1."}
    return modules | {b: f"backbone.model.layer{i}." for i, b in enumerate(blocks) if i > 0}


def to_their_names(state: Mapping[str, np.ndarray], config: ModelConfig) -> Weights:
    """An official state_dict under the names of the code that has such a model.

    That is MegaLoc's second release, which has no mask token; BoQ's and OpenVPRLab's for DINOv2
    without its last LayerNorm; BoQ's for its ResNets; or as it is.
    """
    modules: dict[str, str] = {}
    if config.projection is not None:
        state = {name: a for name, a in state.items() if not name.endswith(".mask_token")}
        modules = {"backbone.model.": "backbone.", "aggregator.linear.": "aggregator.linear."}
        modules["aggregator."] = "aggregator.agg."
    elif not config.final_norm:
        modules = {"backbone.model.": _OPENVPRLAB_DINO}
    elif isinstance(config.aggregator, BoQConfig):
        modules = {official: theirs for theirs, official in _BOQ.items()}
    return _moved(state, modules)


def _megaloc(names: Iterable[str]) -> dict[str, str]:
    """The first release has its backbone as `backbone.model`, the second one as `backbone`."""
    is_first = any(name.startswith("backbone.model.") for name in names)
    modules = {"aggregator.agg.": "aggregator."}
    return modules if is_first else {**modules, "backbone.": "backbone.model."}


def _openvprlab(names: Iterable[str]) -> dict[str, str]:
    return _openvprlab_modules(count_modules(r"backbone\.frozen_layers\.(\d)\.", names))


def _children(prefix: str) -> dict[str, str]:
    """A torchvision ResNet's children in a row."""
    stages = {f"{prefix}{stage + 3}.": f"backbone.model.layer{stage}." for stage in (1, 2, 3, 4)}
    return {f"{prefix}0.": "backbone.model.conv1.", f"{prefix}1.": "backbone.model.bn1.", **stages}


_COSPLACE = {
    **_children("backbone."),
    # The head is a list of five layers; in deep-visual-geo-localization-benchmark a list in a list.
    "aggregation.1.p": "aggregator.gem.p",
    "aggregation.0.1.p": "aggregator.gem.p",
    "aggregation.1.": "aggregator.fc.",
    "aggregation.3.": "aggregator.fc.",
}
_BOQ = _children("backbone.net.")
_PATCHES, _OPENVPRLAB_DINO = "patch_embed.proj.weight", "backbone.dino."
_STEM, _NORMED = "conv_stem.weight", "patch_embed.norm.weight"
_AROUND = r"((model|net|network|backbone|dinov2|dinov2_with_registers)\.)*"
_BARE: dict[str, Any] = {
    "modules": lambda _: {"": "backbone.model."},
    "is_bare": True,
    "prefix": _AROUND,
}
# The most specific first.
LAYOUTS = (
    Layout("official (MixVPR, gsv-cities)", "backbone.model.conv1.weight"),
    Layout("OpenVPRLab", "backbone.frozen_layers.0.0.weight", _openvprlab, "bicubic"),
    Layout(
        "OpenVPRLab, nothing frozen", "backbone.unfrozen_layers.0.0.weight", _openvprlab, "bicubic"
    ),
    Layout(
        "CosPlace, EigenPlaces", "backbone.0.weight", lambda _: _COSPLACE, image_size=(512, 512)
    ),
    Layout(
        "MegaLoc",
        "aggregator.agg.dust_bin",
        _megaloc,
        image_size=(322, 322),
        arranged=with_mask_token,
    ),
    Layout("EfficientNet (MixVPR)", f"backbone.model.{_STEM}"),
    Layout("Swin Transformer (MixVPR)", f"backbone.model.{_NORMED}", arranged=from_earlier_timm),
    Layout("DINOv2, SALAD", f"backbone.model.{_PATCHES}", image_size=(322, 322)),
    Layout(
        "DINOv2, OpenVPRLab and BoQ",
        f"backbone.dino.{_PATCHES}",
        lambda _: {_OPENVPRLAB_DINO: "backbone.model."},
        "bicubic",
        (322, 322),
        final_norm=False,
    ),
    Layout("ResNet, BoQ", "backbone.net.0.weight", lambda _: _BOQ, "bicubic", (384, 384)),
    Layout("torchvision backbone", "conv1.weight", **_BARE),
    Layout("timm EfficientNet", _STEM, **_BARE),
    Layout("timm Swin Transformer", _NORMED, **_BARE, arranged=from_earlier_timm),
    Layout("DINOv2 backbone", _PATCHES, **_BARE, image_size=(322, 322), arranged=from_timm),
    Layout(
        "DINOv2 backbone, Hugging Face",
        "embeddings.patch_embeddings.projection.weight",
        **_BARE,
        image_size=(322, 322),
        arranged=from_hugging_face,
    ),
)
