"""The key table between PyTorch's names and layouts and this project's, used both ways.

A row pairs a module of the official state_dict with its place in the Flax model; a layer kind says
how its arrays are named and laid out on either side. Everything here is names and NumPy arrays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mixvpr_jax.errors import InputError

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
