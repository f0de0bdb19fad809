"""The key table between PyTorch's names and layouts and this project's, used both ways.

A row names a module of the official state_dict, its kind of layer, and its place in the Flax model
if that differs. The kind says how the module's arrays are named and laid out on either side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mixvpr_jax.conversion.layouts import Weights, renamed
from mixvpr_jax.errors import InputError

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
        lambda w: w.reshape(*2 * (math.isqrt(len(w) // 3),), 3, -1).transpose(3, 2, 0, 1),
    ),
    Leaf("bias", "bias"),
)
LAYER_NORM = (Leaf("weight", "scale"), Leaf("bias", "bias"))
BATCH_NORM = (*LAYER_NORM, Leaf("running_mean", "mean"), Leaf("running_var", "var"))
IN_PROJ = (  # of torch.nn.MultiheadAttention: queries, keys and values in one array
    Leaf("in_proj_weight", "in_proj.kernel", np.transpose, np.transpose),
    Leaf("in_proj_bias", "in_proj.bias"),
)


def _kept(*names: str) -> tuple[Leaf, ...]:
    return tuple(Leaf(name, name) for name in names)


# {…} stands for a number.
_BACKBONE = (
    ("conv1", CONV),
    ("bn{j}", BATCH_NORM),
    ("layer{s}.{i}.conv{j}", CONV),
    ("layer{s}.{i}.bn{j}", BATCH_NORM),
    ("layer{s}.{i}.downsample.0", CONV, "layer{s}.{i}.downsample.conv"),
    ("layer{s}.{i}.downsample.1", BATCH_NORM, "layer{s}.{i}.downsample.bn"),
    # DINOv2
    ("", _kept("cls_token", "pos_embed", "register_tokens", "mask_token")),
    ("patch_embed.proj", PATCHES),
    ("blocks.{i}.norm{j}", LAYER_NORM),
    ("blocks.{i}.attn.qkv", LINEAR),
    ("blocks.{i}.attn.proj", LINEAR),
    ("blocks.{i}.ls{j}", _kept("gamma")),
    ("blocks.{i}.mlp.fc{j}", LINEAR),
    ("blocks.{i}.mlp.w{j}", LINEAR),
    ("norm", LAYER_NORM),
    # EfficientNet
    ("conv_stem", CONV),
    ("conv_head", CONV),
    ("blocks.{s}.{i}.conv_dw", CONV),
    ("blocks.{s}.{i}.conv_pw", CONV),
    ("blocks.{s}.{i}.conv_pwl", CONV),
    ("blocks.{s}.{i}.bn{j}", BATCH_NORM),
    ("blocks.{s}.{i}.se.conv_reduce", POINTWISE),
    ("blocks.{s}.{i}.se.conv_expand", POINTWISE),
    # Swin Transformer
    ("patch_embed.norm", LAYER_NORM),
    ("layers.{s}.downsample.reduction", LINEAR),
    ("layers.{s}.downsample.norm", LAYER_NORM),
    ("layers.{s}.blocks.{i}.norm{j}", LAYER_NORM),
    ("layers.{s}.blocks.{i}.attn", _kept("q_bias", "v_bias", "logit_scale")),
    ("layers.{s}.blocks.{i}.attn.qkv", LINEAR),
    ("layers.{s}.blocks.{i}.attn.proj", LINEAR),
    ("layers.{s}.blocks.{i}.attn.cpb_mlp.0", LINEAR, "layers.{s}.blocks.{i}.attn.cpb_mlp.fc1"),
    ("layers.{s}.blocks.{i}.attn.cpb_mlp.2", LINEAR, "layers.{s}.blocks.{i}.attn.cpb_mlp.fc2"),
    ("layers.{s}.blocks.{i}.mlp.fc{j}", LINEAR),
)
_AGGREGATOR = (
    ("mix.{i}.mix.0", LAYER_NORM, "mix.{i}.norm"),
    ("mix.{i}.mix.1", LINEAR, "mix.{i}.expand"),
    ("mix.{i}.mix.3", LINEAR, "mix.{i}.project"),
    ("channel_proj", LINEAR),
    ("row_proj", LINEAR),
    ("channel_pool", POINTWISE),
    ("gem", _kept("p")),
    ("fc", LINEAR),
    ("", _kept("p", "dust_bin")),
    ("token_features.0", LINEAR, "token_features.expand"),
    ("token_features.2", LINEAR, "token_features.project"),
    ("cluster_features.0", POINTWISE, "cluster_features.expand"),
    ("cluster_features.3", POINTWISE, "cluster_features.project"),
    ("score.0", POINTWISE, "score.expand"),
    ("score.3", POINTWISE, "score.project"),
    ("proj_c", (*CONV, Leaf("bias", "bias"))),
    ("norm_input", LAYER_NORM),
    ("boqs.{i}", _kept("queries")),
    ("boqs.{i}.encoder.linear{j}", LINEAR),
    ("boqs.{i}.encoder.norm{j}", LAYER_NORM),
    ("boqs.{i}.encoder.self_attn", IN_PROJ),
    ("boqs.{i}.encoder.self_attn.out_proj", LINEAR),
    ("boqs.{i}.self_attn", IN_PROJ),
    ("boqs.{i}.self_attn.out_proj", LINEAR),
    ("boqs.{i}.cross_attn", IN_PROJ),
    ("boqs.{i}.cross_attn.out_proj", LINEAR),
    ("boqs.{i}.norm_q", LAYER_NORM),
    ("boqs.{i}.norm_out", LAYER_NORM),
)
# Their prefix, ours, and the modules below both.
KEY_TABLE = (
    ("backbone.model", "backbone", _BACKBONE),
    ("aggregator", "aggregator", _AGGREGATOR),
    ("aggregator.linear", "projection", (("", LINEAR),)),
)


def torch_name(flax_name: str) -> str | None:
    """The official name of a Flax one; None where the table has no row for it."""
    found = _lookup(flax_name, _TO_TORCH)
    return found and found[0]


def to_flax(state: Mapping[str, np.ndarray]) -> Weights:
    """Renames and transposes an official state_dict (without `num_batches_tracked`).

    An entry that the table does not hold stays as it is, for the strict check to refuse.

    Raises:
        InputError: An array with another number of axes than its layer has, or two names of one.
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
    head = complete.get("backbone.model.conv_head.weight")
    if head is not None:  # the classifier, which timm's module has and nobody calls here
        complete["backbone.model.classifier.weight"] = np.zeros((1000, len(head)), head.dtype)
        complete["backbone.model.classifier.bias"] = np.zeros(1000, head.dtype)
    return complete


_Rows = list[tuple[re.Pattern[str], str, _Change]]  # a name, the other side's, the other layout


def _convert(arrays: Mapping[str, np.ndarray], rows: _Rows) -> Weights:
    converted: Weights = {}
    names: dict[str, str] = {}
    for name, array in arrays.items():
        names[name], change = _lookup(name, rows) or (name, None)
        try:
            converted[name] = np.asarray(change(array), order="C") if change else array
        except (ValueError, IndexError):
            raise InputError(f"{name}: found an array of shape {list(array.shape)}") from None
    return renamed(converted, names.__getitem__)


def _lookup(name: str, rows: _Rows) -> tuple[str, _Change] | None:
    for pattern, template, change in rows:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict()), change
    return None


def _rows(source: int) -> _Rows:
    """The rows for names of one side: 0 is PyTorch's, 1 is Flax's."""
    rows = []
    for theirs, ours, modules in KEY_TABLE:
        for module, kind, *moved in modules:
            [place] = moved or [module]
            for leaf in kind:
                sides = (theirs, module, leaf.torch), (ours, place, leaf.flax)
                names = [".".join(filter(None, side)) for side in sides]
                changes = leaf.to_flax, leaf.to_torch
                pattern = re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(names[source]))
                rows.append((re.compile(pattern), names[1 - source], changes[source]))
    return rows


_TO_FLAX, _TO_TORCH = _rows(0), _rows(1)
