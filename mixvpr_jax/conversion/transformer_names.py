"""Transformers' weights under the names of others: of Hugging Face, and of timm's versions."""

from __future__ import annotations

import re
from collections.abc import Mapping

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


def from_hugging_face(state: Mapping[str, np.ndarray]) -> Weights:
    """DINOv2 by the names of `Dinov2Model` or `Dinov2WithRegistersModel`."""
    renamed = {}
    for name, array in state.items():
        own = name.removeprefix(_BACKBONE)
        for pattern, authors in _HUGGING_FACE:
            own, count = re.subn(rf"^{pattern}", authors, own)
            if count:
                break
        renamed[own] = array
    for name in [name for name in renamed if ".attn.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in _PARTS]
        if missing := [part for part in parts if part not in renamed]:
            raise InputError(f"expected queries, keys and values, found no {', '.join(missing)}")
        arrays = [renamed.pop(part) for part in parts]
        renamed[name.replace(".query.", ".qkv.")] = np.concatenate(arrays)
    return {_BACKBONE + name: array for name, array in renamed.items()}


def from_timm(state: Mapping[str, np.ndarray]) -> Weights:
    """DINOv2 by timm's names, `vit_*_patch14_dinov2`; the authors' own stay as they are.

    timm drops the mask token, which serves pre-training alone, and adds the class token's position
    to the token where there are registers: both are filled with zeros here.
    """
    if f"{_BACKBONE}mask_token" in state or f"{_BACKBONE}pos_embed" not in state:
        return dict(state)
    found = with_mask_token(state)
    if f"{_BACKBONE}reg_token" in found:
        found[f"{_BACKBONE}register_tokens"] = found.pop(f"{_BACKBONE}reg_token")
        if (positions := found[f"{_BACKBONE}pos_embed"]).ndim == 3:
            first = np.zeros_like(positions[:, :1])
            found[f"{_BACKBONE}pos_embed"] = np.concatenate([first, positions], axis=1)
    for name in [name for name in found if name.endswith(".mlp.fc1.weight")]:
        block = name.removesuffix("fc1.weight")
        second = found.get(f"{block}fc2.weight")
        if second is not None and len(found[name]) == 2 * second.shape[-1]:  # gated
            for leaf in ("weight", "bias"):
                for theirs, authors in (("fc1", "w12"), ("fc2", "w3")):
                    if f"{block}{theirs}.{leaf}" in found:
                        found[f"{block}{authors}.{leaf}"] = found.pop(f"{block}{theirs}.{leaf}")
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
    return {
        downsample.sub(lambda match: f"{match[1]}{int(match[2]) + 1}", name): array
        for name, array in state.items()
    }
