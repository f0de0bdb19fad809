"""Weights as a flat mapping of dotted names, in and out of a model, strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mixvpr_jax.conversion.formats import is_float
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import ModelConfig
from mixvpr_jax.models.vpr import VPRModel


def get_weights(model: VPRModel) -> dict[str, np.ndarray]:
    """Parameters and running statistics of a model by name (`backbone.conv1.kernel`, …)."""
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    return {_dotted(path): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def build_model(
    config: ModelConfig,
    weights: Mapping[str, np.ndarray],
    *,
    source: str = "weights",
    rename: Callable[[str], str | None] = lambda name: name,
) -> VPRModel:
    """The model of a configuration, filled with these weights; nothing is initialised in vain.

    Args:
        config: What to build.
        weights: An array for each parameter and running statistic, by name.
        source: Where the weights are from, for errors.
        rename: Gives the name under which an error reports a parameter.

    Raises:
        InputError: A parameter left unfilled, an entry left over, another shape than expected, or
            a value that is not finite. Every such name is listed.
    """
    abstract = nnx.eval_shape(lambda: VPRModel(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(abstract)
    leaves = {_dotted(path): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    _check({name: leaf.shape for name, (_, leaf) in leaves.items()}, weights, source, rename)
    filled = [
        (path, leaf.replace(jnp.asarray(weights[name], leaf.dtype)))
        for name, (path, leaf) in leaves.items()
    ]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _check(
    expected: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, np.ndarray],
    source: str,
    rename: Callable[[str], str | None],
) -> None:
    def listed(names: list[str]) -> str:
        return ", ".join(sorted(rename(name) or name for name in names)) or "none"

    missing = [name for name in expected if name not in weights]
    surplus = [name for name in weights if name not in expected]
    if missing or surplus:
        raise InputError(
            f"{source}: parameters left unfilled: {listed(missing)}; "
            f"entries left over: {listed(surplus)}"
        )
    misshapen = [name for name, shape in expected.items() if weights[name].shape != shape]
    if misshapen:
        details = ", ".join(
            f"{rename(name) or name} (expected {list(expected[name])}, "
            f"found {list(weights[name].shape)}, both in Flax's layout)"
            for name in misshapen
        )
        raise InputError(f"{source}: wrong shapes: {details}")
    other = [f"{rename(n) or n} ({a.dtype})" for n, a in weights.items() if not is_float(a.dtype)]
    if other:
        raise InputError(f"{source}: expected floats, found: {', '.join(sorted(other))}")
    broken = [name for name, array in weights.items() if not np.isfinite(array).all()]
    if broken:
        raise InputError(f"{source}: values that are not finite in: {listed(broken)}")


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))
