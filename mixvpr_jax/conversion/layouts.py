"""The names that repositories and libraries give weights, into official names and back.

Each layout is a table of prefixes, used both ways, and a function for what libraries change beside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.models.backbones import RESNETS, SWINS
from mixvpr_jax.models.config import BoQConfig, Interpolation, ModelConfig

Weights = dict[str, np.ndarray]
LayoutName = Literal["official", "openvprlab"]  # of files that we write

# Modules around the network or a part of it: of DistributedDataParallel, torch.compile, FSDP,
# activation checkpointing and Lightning's strategies.
_WRAPPER = re.compile("module|_orig_mod|_forward_module|_(fsdp|checkpoint)_wrapped_module")


@dataclass(frozen=True)
class Layout:
    """How a repository names weights, and how it resizes images."""

    name: str
    anchor: str  # an array that no layout further down has; LAYOUTS is searched from its top
    # Prefixes of names → the official ones; the first that fits counts.
    modules: Mapping[str, str] = field(default_factory=dict)
    interpolation: Interpolation = "bilinear"
    image_size: tuple[int, int] = (320, 320)  # unless a checkpoint tells
    is_bare: bool = False  # a backbone alone
    final_norm: bool = True  # of a transformer's tokens
    projects: bool = False  # by a Linear layer, what the aggregator scaled to unit norm
    arranged: Callable[[Weights], Weights] = dict  # before prefixes are replaced
    prefix: str = ".*"  # may precede the names, where the network is a part of something larger

    def prefix_of(self, name: str) -> str | None:
        """What precedes the anchor in a name that ends with it; None for other names."""
        prefix = name.removesuffix(self.anchor)
        fits = len(prefix) < len(name) and (not prefix or prefix.endswith("."))
        return prefix if fits and re.fullmatch(self.prefix, prefix) else None

    def to_theirs(self, state: Mapping[str, np.ndarray]) -> Weights:
        """An official state_dict under this repository's names."""
        return _moved(state, {official: theirs for theirs, official in self.modules.items()})


def official_names(state: Mapping[str, np.ndarray]) -> tuple[Layout, Weights]:
    """The layout of a state_dict and its entries under official names; unknown names stay."""
    inner = renamed(state, _without_wrappers)
    for layout in LAYOUTS:
        prefixes = [p for p in map(layout.prefix_of, inner) if p is not None]
        if len(prefixes) > 1:
            several = " and ".join(prefix + layout.anchor for prefix in prefixes[:4])
            raise InputError(f"expected one set of weights, found {several}; save one alone")
        for prefix in prefixes:
            own = _moved(inner, {prefix: ""})
            try:
                return layout, _moved(layout.arranged(own), layout.modules)
            except (ValueError, IndexError, TypeError) as error:  # of shapes
                raise InputError(
                    f"expected weights of a transformer, found other shapes: {error}"
                ) from None
    anchors = {layout.name: layout.anchor for layout in LAYOUTS}.values()
    raise InputError(f"expected one of the keys {', '.join(anchors)}; found {few(state)}")


def renamed(state: Mapping[str, np.ndarray], rename: Callable[[str], str]) -> Weights:
    """Weights by their new names, of which no two may be the same."""
    names: dict[str, str] = {}
    for name in state:
        if (other := names.setdefault(rename(name), name)) != name:
            raise InputError(f"expected one set of weights, found both {other} and {name}")
    return {new: state[name] for new, name in names.items()}


def _moved(state: Mapping[str, np.ndarray], modules: Mapping[str, str]) -> Weights:
    """Renames modules: of prefixes of a name, the first that fits gives way to the other."""

    def rename(name: str) -> str:
        for module, other in modules.items():
            if name.startswith(module):
                return other + name.removeprefix(module)
        return name

    return renamed(state, rename)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if not _WRAPPER.fullmatch(part))


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


# What libraries change beside names ---------------------------------------------------------------

_HUGGING_FACE = (  # theirs, the authors'
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.", r"blocks.\1.attn."),
    (r"encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.", r"blocks.\1.mlp.w12."),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.", r"blocks.\1.mlp.w3."),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"layernorm\.", "norm."),
)


def _from_hugging_face(state: Weights) -> Weights:
    """DINOv2 of `Dinov2Model` or `Dinov2WithRegistersModel`, whose attention is in three parts."""

    def rename(name: str) -> str:
        for pattern, authors in _HUGGING_FACE:  # at most one fits
            name = re.sub(rf"^{pattern}", authors, name)
        return name

    found = renamed(state, rename)
    for name in [name for name in found if ".attn.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if missing := [part for part in parts if part not in found]:
            raise InputError(f"expected queries, keys and values, found no {', '.join(missing)}")
        if (whole := name.replace(".query.", ".qkv.")) in found:
            raise InputError(f"expected one set of weights, found both {name} and {whole}")
        found[whole] = np.concatenate([found.pop(part) for part in parts])
    return found


def _from_timm(state: Weights) -> Weights:
    """DINOv2 of timm, `vit_*_patch14_dinov2`; the authors' own stays as it is.

    timm drops the mask token, and adds the class token's position to the token where there are
    registers: both are filled with zeros here.
    """
    if "mask_token" in state or "pos_embed" not in state:
        return state
    parts = {"reg_token": "register_tokens"}
    first, second = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if first is not None and second is not None and len(first) == 2 * second.shape[-1]:  # gated
        parts |= {".mlp.fc1.": ".mlp.w12.", ".mlp.fc2.": ".mlp.w3."}

    def rename(name: str) -> str:
        for timms, authors in parts.items():
            name = name.replace(timms, authors)
        return name

    found = renamed(_with_mask_token(state), rename)
    if "reg_token" in state:
        positions = found["pos_embed"]
        found["pos_embed"] = np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)
    return found


def _with_mask_token(state: Weights) -> Weights:
    """Fills the mask token, which serves pre-training alone, with zeros where it is left out."""
    found = dict(state)
    for name, positions in state.items():
        if name.endswith("pos_embed"):
            zeros = np.zeros((1, positions.shape[-1]), positions.dtype)
            found.setdefault(name.removesuffix("pos_embed") + "mask_token", zeros)
    return found


def _with_norm(state: Weights) -> Weights:
    """Fills the last LayerNorm, which is skipped, where an identity took its place.

    BoQ's training code replaced it up to March 2025, and so do others.
    """
    norm = "backbone.dino.norm."
    if any(name.startswith(norm) for name in state):
        return state
    width = state[f"backbone.dino.{_PATCHES}"].shape[0]
    filled = np.ones(width, np.float32), np.zeros(width, np.float32)
    return state | dict(zip((f"{norm}weight", f"{norm}bias"), filled, strict=True))


# Layouts ------------------------------------------------------------------------------------------

_MODEL = "backbone.model."
_ALL = {"": _MODEL}
_PATCHES, _STEM = "patch_embed.proj.weight", "conv_stem.weight"
_NORMED, _EARLIER = "patch_embed.norm.weight", "layers.0.downsample.norm.weight"


def _children(prefix: str) -> dict[str, str]:
    """A torchvision ResNet's children in a row."""
    stages = {f"{prefix}{stage + 3}.": f"{_MODEL}layer{stage}." for stage in (1, 2, 3, 4)}
    return {f"{prefix}0.": f"{_MODEL}conv1.", f"{prefix}1.": f"{_MODEL}bn1.", **stages}


def _openvprlab(num_frozen: int) -> Layout:
    """Of the stem and the stages, which are numbered anew after the frozen ones."""
    blocks = [f"backbone.frozen_layers.{block}." for block in range(num_frozen)]
    blocks += [f"backbone.unfrozen_layers.{block}." for block in range(5 - num_frozen)]
    modules = {f"{blocks[0]}0.": f"{_MODEL}conv1.", f"{blocks[0]}1.": f"{_MODEL}bn1."}
    modules |= {block: f"{_MODEL}layer{i}." for i, block in enumerate(blocks) if i > 0}
    last = blocks[max(num_frozen, 1) - 1]
    anchor = f"{last}0.conv1.weight" if num_frozen > 1 else f"{last}0.weight"
    name = "OpenVPRLab" if num_frozen else "OpenVPRLab, nothing frozen"
    return Layout(name, anchor, modules, "bicubic")


def _earlier_swin(prefix: str) -> dict[str, str]:
    """Of timm before 0.9, which the official code needs: stages end by the next's downsampling."""
    return {
        f"{prefix}layers.{stage}.downsample.": f"{_MODEL}layers.{stage + 1}.downsample."
        for stage in (0, 1, 2)
    }


_COSPLACE = {
    **_children("backbone."),
    # The head is a list of five layers; in deep-visual-geo-localization-benchmark a list in a list.
    "aggregation.1.p": "aggregator.gem.p",
    "aggregation.0.1.p": "aggregator.gem.p",
    "aggregation.1.": "aggregator.fc.",
    "aggregation.3.": "aggregator.fc.",
}
_MEGALOC = Layout(
    "MegaLoc",
    "aggregator.agg.dust_bin",
    {
        "aggregator.linear.": "aggregator.linear.",
        "aggregator.agg.": "aggregator.",
        _MODEL: _MODEL,  # of the first release
        "backbone.": _MODEL,
    },
    image_size=(322, 322),
    projects=True,
    arranged=_with_mask_token,
)
_OFFICIAL = Layout("official (MixVPR, gsv-cities)", f"{_MODEL}conv1.weight")
_OPENVPRLAB = tuple(map(_openvprlab, range(6)))
_BOQ = Layout(
    "ResNet, BoQ", "backbone.net.0.weight", _children("backbone.net."), "bicubic", (384, 384)
)
_UNNORMED = Layout(
    "DINOv2, OpenVPRLab and BoQ",
    f"backbone.dino.{_PATCHES}",
    {"backbone.dino.": _MODEL},
    "bicubic",
    (322, 322),
    final_norm=False,
    arranged=_with_norm,
)
_SWIN = Layout("Swin Transformer (MixVPR)", _MODEL + _EARLIER, _earlier_swin(_MODEL))


def _bare(name: str, anchor: str, modules: Mapping[str, str] = _ALL, **options: Any) -> Layout:
    around = r"((model|net|network|backbone|dinov2|dinov2_with_registers)\.)*"
    return Layout(name, anchor, modules, is_bare=True, prefix=around, **options)


# The most specific first.
LAYOUTS = (
    _OFFICIAL,
    *reversed(_OPENVPRLAB),
    Layout(
        "deep-visual-geo-localization-benchmark",
        "aggregation.0.1.p",
        _COSPLACE,
        image_size=(480, 640),
    ),
    Layout("CosPlace, EigenPlaces", "backbone.0.weight", _COSPLACE, image_size=(512, 512)),
    _MEGALOC,
    Layout("EfficientNet (MixVPR)", _MODEL + _STEM),
    _SWIN,
    Layout("Swin Transformer, timm 1.0", _MODEL + _NORMED),
    Layout("DINOv2, SALAD", _MODEL + _PATCHES, image_size=(322, 322)),
    _UNNORMED,
    _BOQ,
    _bare("torchvision backbone", "conv1.weight"),
    _bare("timm EfficientNet", _STEM),
    _bare("timm Swin Transformer", _EARLIER, _earlier_swin("") | _ALL),
    _bare("timm Swin Transformer", _NORMED),
    _bare("DINOv2 backbone", _PATCHES, image_size=(322, 322), arranged=_from_timm),
    _bare(
        "DINOv2 backbone, Hugging Face",
        "embeddings.patch_embeddings.projection.weight",
        image_size=(322, 322),
        arranged=_from_hugging_face,
    ),
)


def layout_of(config: ModelConfig, name: LayoutName, unfrozen_blocks: int) -> Layout:
    """That of the code that has such a model, or OpenVPRLab's.

    There, `unfrozen_blocks` of a ResNet's stem and stages, counted from the end, are trained.
    """
    if name == "openvprlab" and config.arch in RESNETS:
        num_blocks = 1 + config.num_stages
        if not 0 <= unfrozen_blocks <= num_blocks:
            raise InputError(
                f"unfrozen blocks: expected 0 to {num_blocks}, found {unfrozen_blocks}"
            )
        return _OPENVPRLAB[num_blocks - unfrozen_blocks]
    if name == "openvprlab" and (config.final_norm or config.projection is not None):
        raise InputError(
            "OpenVPRLab: expected a ResNet, or DINOv2 without its last LayerNorm or a projection, "
            f"found {config.arch} with final_norm={config.final_norm}; omit --layout openvprlab"
        )
    if config.projection is not None:
        return _MEGALOC
    if not config.final_norm:
        return _UNNORMED
    if isinstance(config.aggregator, BoQConfig):
        return _BOQ
    return _SWIN if config.arch in SWINS else _OFFICIAL
