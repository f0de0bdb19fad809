"""DINOv2 in PyTorch, on the authors' names: written afresh of the papers and PyTorch's functions.

It exists to be compared against. Images are [b, 3, h, w], feature maps [b, h, w, c].
"""

from __future__ import annotations

import numpy as np
import torch_or_skip as torch
from reference_heads import TorchBoQ, salad
from reference_torch import MixVPR

from mixvpr_jax.conversion import get_weights
from mixvpr_jax.conversion.key_table import to_torch
from mixvpr_jax.models.backbones import VITS
from mixvpr_jax.models.config import BoQConfig, MixVPRConfig, SALADConfig
from mixvpr_jax.models.vpr import VPRModel

F = torch.nn.functional


def normed(x, state, name):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)


def product(x, state, name):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def positions(state, rows, columns, registers):
    """Of the class token and of the patches, which the authors interpolate in float32."""
    if (rows, columns) == (37, 37):
        return state["pos_embed"]
    embedding = state["pos_embed"].float()
    grid = embedding[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    if registers:
        how = {"size": (rows, columns), "antialias": True}
    else:
        how = {"scale_factor": ((rows + 0.1) / 37, (columns + 0.1) / 37)}
    found = F.interpolate(grid, mode="bicubic", **how)
    assert found.shape[2:] == (rows, columns)
    whole = torch.cat([embedding[:, :1], found.flatten(2).transpose(1, 2)], 1)
    return whole.to(state["pos_embed"].dtype)


def by_torch(state, images, heads, registers, final_norm=True):
    """Feature map and class token; images [b, 3, h, w]."""
    patches = F.conv2d(
        images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14
    )
    batch, width, rows, columns = patches.shape
    first = state["cls_token"].expand(batch, -1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)
    x = x + positions(state, rows, columns, registers)
    if registers:
        x = torch.cat([x[:, :1], state["register_tokens"].expand(batch, -1, -1), x[:, 1:]], 1)
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for block in (f"blocks.{number}" for number in range(depth)):
        qkv = product(normed(x, state, f"{block}.norm1"), state, f"{block}.attn.qkv")
        qkv = qkv.reshape(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(batch, -1, width)
        x = x + product(mixed, state, f"{block}.attn.proj") * state[f"{block}.ls1.gamma"]
        y = normed(x, state, f"{block}.norm2")
        if f"{block}.mlp.w12.weight" in state:
            a, b = product(y, state, f"{block}.mlp.w12").chunk(2, -1)
            y = product(F.silu(a) * b, state, f"{block}.mlp.w3")
        else:
            y = F.gelu(product(y, state, f"{block}.mlp.fc1"))
            y = product(y, state, f"{block}.mlp.fc2")
        x = x + y * state[f"{block}.ls2.gamma"]
    if final_norm:
        x = normed(x, state, "norm")
    return x[:, 1 + registers :].reshape(batch, rows, columns, width), x[:, 0]


def frozen_prefixes(blocks):
    """What the names of parameters below the trained blocks begin with."""
    tokens = ("cls_token", "pos_embed", "register_tokens", "mask_token", "patch_embed.")
    return tokens + tuple(f"blocks.{number}." for number in range(blocks))


class TorchModel(torch.nn.Module):
    """A whole model, with our model's weights: images [b, 3, h, w] → descriptors [b, d]."""

    def __init__(self, model: VPRModel):
        super().__init__()
        self.config, self.shape = model.config, VITS[model.config.arch]
        self.names = {}
        for name, array in to_torch(get_weights(model)).items():
            self.names[name] = name.replace(".", "/")  # of a parameter: without dots
            parameter = torch.nn.Parameter(torch.from_numpy(np.array(array)))
            self.register_parameter(self.names[name], parameter)
        channels, head = self.config.feature_channels, self.config.aggregator
        match head:
            case MixVPRConfig():
                size = self.config.feature_size
                self.head = MixVPR(channels, *size, *vars(head).values())
            case BoQConfig():
                self.head = TorchBoQ(channels, **vars(head))
            case SALADConfig():
                self.head = None
        if self.head is not None:
            own = {n[11:]: getattr(self, p) for n, p in self.names.items() if n.startswith("aggr")}
            dtype = next(iter(own.values())).dtype
            self.head.to(dtype).load_state_dict(own, strict=True)

    def freeze(self, blocks):
        """Takes the embeddings and the first blocks out of training."""
        frozen = tuple(f"backbone.model.{prefix}" for prefix in frozen_prefixes(blocks))
        for name, parameter in self.names.items():
            getattr(self, parameter).requires_grad_(not name.startswith(frozen))

    def forward(self, images):
        state = {name: getattr(self, parameter) for name, parameter in self.names.items()}
        backbone = {n[15:]: array for n, array in state.items() if n.startswith("backbone.model.")}
        options = self.shape.heads, self.shape.num_registers, self.config.final_norm
        features, token = by_torch(backbone, images, *options)
        match self.config.aggregator:
            case SALADConfig():
                x = salad(state, features, token)
            case _:
                x = self.head(features.permute(0, 3, 1, 2))
        if self.config.projection is not None:
            x = F.normalize(product(x, state, "aggregator.linear"), dim=1)
        return x
