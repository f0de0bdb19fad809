"""SALAD and BoQ in PyTorch, written afresh with the official parameter names.

SALAD is of the paper, its transport as products of a kernel's rows and columns; BoQ of PyTorch's
own transformer layers. SALAD's feature maps are [b, h, w, c], BoQ's [b, c, h, w].
"""

from __future__ import annotations

import torch_or_skip as torch

F = torch.nn.functional


def mlp(state, name, last, x):
    """Over the last axis, from 1x1 convolutions or Linear layers of a torch.nn.Sequential."""
    for layer in (0, last):
        weight, bias = (state[f"aggregator.{name}.{layer}.{part}"] for part in ("weight", "bias"))
        x = F.linear(x if layer == 0 else x.relu(), weight.flatten(1), bias)
    return x


def salad(state, features, token):
    """Of a state_dict, a feature map and class tokens [b, c]."""
    x = features.flatten(1, 2)
    scores, count = mlp(state, "score", 3, x), x.shape[1]
    dust = state["aggregator.dust_bin"].expand(*scores.shape[:2], 1)
    kernel = torch.cat([scores, dust], 2).exp()
    takes = torch.ones_like(kernel[0, 0])
    takes[-1] = count - scores.shape[2]
    rows = torch.ones_like(kernel[:, :, 0])
    for _ in range(3):
        columns = takes / torch.einsum("bnm,bn->bm", kernel, rows)
        rows = 1 / torch.einsum("bnm,bm->bn", kernel, columns)
    plan = (kernel * rows[:, :, None] * columns[:, None])[:, :, :-1]
    clusters = torch.einsum("bnd,bnm->bdm", mlp(state, "cluster_features", 3, x), plan)
    token = F.normalize(mlp(state, "token_features", 2, token), dim=1)
    return F.normalize(torch.cat([token, F.normalize(clusters, dim=1).flatten(1)], 1), dim=1)


class Block(torch.nn.Module):
    """Official names, of PyTorch's own modules."""

    def __init__(self, width, num_queries):
        super().__init__()
        heads = width // 64
        self.encoder = torch.nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, batch_first=True
        )
        self.queries = torch.nn.Parameter(torch.empty(1, num_queries, width))
        self.self_attn = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_q = torch.nn.LayerNorm(width)
        self.cross_attn = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_out = torch.nn.LayerNorm(width)

    def forward(self, x):
        x = self.encoder(x)
        queries = self.queries.expand(len(x), -1, -1)
        queries = self.norm_q(queries + self.self_attn(queries, queries, queries)[0])
        return x, self.norm_out(self.cross_attn(queries, x, x)[0])


class TorchBoQ(torch.nn.Module):
    def __init__(self, in_channels, proj_channels, num_queries, num_layers, row_dim):
        super().__init__()
        width = proj_channels
        self.proj_c = torch.nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm_input = torch.nn.LayerNorm(width)
        blocks = (Block(width, num_queries) for _ in range(num_layers))
        self.boqs = torch.nn.ModuleList(blocks)
        self.fc = torch.nn.Linear(num_layers * num_queries, row_dim)

    def forward(self, features):
        x = self.norm_input(self.proj_c(features).flatten(2).transpose(1, 2))
        found = []
        for block in self.boqs:
            x, read = block(x)
            found.append(read)
        x = self.fc(torch.cat(found, 1).transpose(1, 2))
        return F.normalize(x.flatten(1), dim=1)
