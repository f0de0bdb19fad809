"""Transformers' weights under the names of others: of Hugging Face, and of timm's versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from mixvpr_jax.errors import InputError

Weights = dict[str, np.ndarray]

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
_PARTS = ("query", "key", "value")  # which the authors keep in one array
_BACKBONE = "backbone.model."  # precedes the names of other libraries


def renamed(state: Mapping[str, np.ndarray], rename: Callable[[str], str]) -> Weights:
    """Weights by their new names, of which no two may be the same."""
    names: dict[str, str] = {}
    for name in state:
        if (other := names.setdefault(rename(name), name)) != name:
            raise InputError(f"expected one set of weights, found both {other} and {name}")
    return {new: state[name] for new, name in names.items()}


def from_hugging_face(state: Mapping[str, np.ndarray]) -> Weights:
    """DINOv2 by the names of `Dinov2Model` or `Dinov2WithRegistersModel`."""

    def rename(name: str) -> str:
        own, count = name.removeprefix(_BACKBONE), 0
        for pattern, authors in _HUGGING_FACE:
            if not count:
                own, count = re.subn(rf"^{pattern}", authors, own)
        return own

    found = renamed(state, rename)
    for name in [name for name in found if ".attn.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in _PARTS]
        if missing := [part for part in parts if part not in found]:
            raise InputError(f"expected queries, keys and values, found no {', '.join(missing)}")
        if (whole := name.replace(".query.", ".qkv.")) in found:
            raise InputError(f"expected one set of weights, found both {name} and {whole}")
        found[whole] = np.concatenate([found.pop(part) for part in parts])
    return {_BACKBONE + name: array for name, array in found.items()}


def from_timm(state: Mapping[str, np.ndarray]) -> Weights:
    """DINOv2 by timm's names, `vit_*_patch14_dinov2`; the authors' own stay as they are.

    timm drops the mask token, which serves pre-training alone, and adds the class token's position
    to the token where there are registers: both are filled with zeros here.
    """
    if f"{_BACKBONE}mask_token" in state or f"{_BACKBONE}pos_embed" not in state:
        return dict(state)
    registers, positions = f"{_BACKBONE}reg_token", f"{_BACKBONE}pos_embed"
    names = {registers: f"{_BACKBONE}register_tokens"}
    for name in state:
        block, first, _ = name.rpartition("fc1.weight")
        second = state.get(f"{block}fc2.weight") if first and block.endswith(".mlp.") else None
        if second is not None and len(state[name]) == 2 * second.shape[-1]:  # gated
            for leaf in ("weight", "bias"):
                names |= {f"{block}fc1.{leaf}": f"{block}w12.{leaf}"}
                names |= {f"{block}fc2.{leaf}": f"{block}w3.{leaf}"}
    found = renamed(with_mask_token(state), lambda name: names.get(name, name))
    if registers in state and found[positions].ndim == 3:
        zeros = np.zeros_like(found[positions][:, :1])
        found[positions] = np.concatenate([zeros, found[positions]], axis=1)
    return found


def with_mask_token(state: Mapping[str, np.ndarray]) -> Weights:
    """Fills the mask token, which serves pre-training alone, with zeros where it is left out."""
    found = dict(state)
    if (positions := state.get(f"{_BACKBONE}pos_embed")) is not None:
        zeros = np.zeros((1, positions.shape[-1]), positions.dtype)
        found.setdefault(f"{_BACKBONE}mask_token", zeros)
    return found


def from_earlier_timm(state: Mapping[str, np.ndarray]) -> Weights:
    """Swin by the names of timm 0.6 and the authors, who end a stage by its downsampling."""
    if f"{_BACKBONE}layers.0.downsample.reduction.weight" not in state:
        return dict(state)
    downsample = re.compile(r"^(backbone\.model\.layers\.)(\d{1,4})(?=\.downsample\.)")
    return renamed(state, lambda name: downsample.sub(lambda at: f"{at[1]}{int(at[2]) + 1}", name))
