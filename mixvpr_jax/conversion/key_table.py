"""The key table between PyTorch's names and layouts and this project's, used both ways.

A row pairs a module of the official state_dict with its place in the Flax model; a layer kind says
how its arrays are named and laid out on either side. Everything here is names and NumPy arrays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mixvpr_jax.errors import InputError

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
GEM = (Leaf("p", "p"),)
DUST_BIN = (Leaf("dust_bin", "dust_bin"),)
QUERIES = (Leaf("queries", "queries"),)
SCALE = (Leaf("gamma", "gamma"),)
TOKENS = tuple(Leaf(n, n) for n in ("cls_token", "pos_embed", "register_tokens", "mask_token"))
COSINE = tuple(Leaf(name, name) for name in ("q_bias", "v_bias", "logit_scale"))

_EFFICIENTNET = (  # within a block
    ("conv_dw", CONV),
    ("conv_pw", CONV),
    ("conv_pwl", CONV),
    ("bn{j}", BATCH_NORM),
    ("se.conv_reduce", POINTWISE),
    ("se.conv_expand", POINTWISE),
)
_SWIN = (  # within a stage
    ("downsample.reduction", "downsample.reduction", LINEAR),
    ("downsample.norm", "downsample.norm", LAYER_NORM),
    ("blocks.{i}.norm{j}", "blocks.{i}.norm{j}", LAYER_NORM),
    ("blocks.{i}.attn", "blocks.{i}.attn", COSINE),
    ("blocks.{i}.attn.qkv", "blocks.{i}.attn.qkv", LINEAR),
    ("blocks.{i}.attn.proj", "blocks.{i}.attn.proj", LINEAR),
    ("blocks.{i}.attn.cpb_mlp.0", "blocks.{i}.attn.cpb_mlp.fc1", LINEAR),
    ("blocks.{i}.attn.cpb_mlp.2", "blocks.{i}.attn.cpb_mlp.fc2", LINEAR),
    ("blocks.{i}.mlp.fc{j}", "blocks.{i}.mlp.fc{j}", LINEAR),
)

# Official module, its place in the Flax model, layer kind. {…} stands for a number.
KEY_TABLE = (
    ("backbone.model.conv1", "backbone.conv1", CONV),
    ("backbone.model.bn{j}", "backbone.bn{j}", BATCH_NORM),
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
    ("backbone.model.conv_stem", "backbone.conv_stem", CONV),
    ("backbone.model.conv_head", "backbone.conv_head", CONV),
    *(
        (f"backbone.model.blocks.{{s}}.{{i}}.{part}", f"backbone.blocks.{{s}}.{{i}}.{part}", kind)
        for part, kind in _EFFICIENTNET
    ),
    ("backbone.model.patch_embed.norm", "backbone.patch_embed.norm", LAYER_NORM),
    *(
        (f"backbone.model.layers.{{s}}.{theirs}", f"backbone.layers.{{s}}.{ours}", kind)
        for theirs, ours, kind in _SWIN
    ),
    ("aggregator.mix.{i}.mix.0", "aggregator.mix.{i}.norm", LAYER_NORM),
    ("aggregator.mix.{i}.mix.1", "aggregator.mix.{i}.expand", LINEAR),
    ("aggregator.mix.{i}.mix.3", "aggregator.mix.{i}.project", LINEAR),
    ("aggregator.channel_proj", "aggregator.channel_proj", LINEAR),
    ("aggregator.row_proj", "aggregator.row_proj", LINEAR),
    ("aggregator.channel_pool", "aggregator.channel_pool", POINTWISE),
    ("aggregator.gem", "aggregator.gem", GEM),
    ("aggregator.fc", "aggregator.fc", LINEAR),
    ("aggregator", "aggregator", GEM),
    ("aggregator", "aggregator", DUST_BIN),
    ("aggregator.token_features.0", "aggregator.token_features.expand", LINEAR),
    ("aggregator.token_features.2", "aggregator.token_features.project", LINEAR),
    ("aggregator.cluster_features.0", "aggregator.cluster_features.expand", POINTWISE),
    ("aggregator.cluster_features.3", "aggregator.cluster_features.project", POINTWISE),
    ("aggregator.score.0", "aggregator.score.expand", POINTWISE),
    ("aggregator.score.3", "aggregator.score.project", POINTWISE),
    ("aggregator.linear", "projection", LINEAR),
    ("aggregator.proj_c", "aggregator.proj_c", (*CONV, Leaf("bias", "bias"))),
    ("aggregator.norm_input", "aggregator.norm_input", LAYER_NORM),
    ("aggregator.boqs.{i}", "aggregator.boqs.{i}", QUERIES),
    ("aggregator.boqs.{i}.encoder.linear{j}", "aggregator.boqs.{i}.encoder.linear{j}", LINEAR),
    ("aggregator.boqs.{i}.encoder.norm{j}", "aggregator.boqs.{i}.encoder.norm{j}", LAYER_NORM),
    ("aggregator.boqs.{i}.norm_q", "aggregator.boqs.{i}.norm_q", LAYER_NORM),
    ("aggregator.boqs.{i}.norm_out", "aggregator.boqs.{i}.norm_out", LAYER_NORM),
    *(
        (f"{attention}{part}", f"{attention}{part}", kind)
        for attention in (
            "aggregator.boqs.{i}.encoder.self_attn",
            "aggregator.boqs.{i}.self_attn",
            "aggregator.boqs.{i}.cross_attn",
        )
        for part, kind in (("", IN_PROJ), (".out_proj", LINEAR))
    ),
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
    head = complete.get("backbone.model.conv_head.weight")
    if head is not None:  # the classifier, which timm's module has and nobody calls here
        complete["backbone.model.classifier.weight"] = np.zeros((1000, len(head)), head.dtype)
        complete["backbone.model.classifier.bias"] = np.zeros(1000, head.dtype)
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
            converted[new_name] = np.asarray(change(array), order="C")
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
