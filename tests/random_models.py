"""Models of random parameters, which compile nothing to draw them."""

import numpy as np
from flax import nnx

from mixvpr_jax.conversion import build_model
from mixvpr_jax.models.layers import param_dtype
from mixvpr_jax.models.vpr import abstract_model


def shapes_of(config):
    """A model's names and the shapes of its arrays, which are not drawn for it."""
    model = abstract_model(config)
    leaves = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return {".".join(map(str, path)): leaf.shape for path, leaf in leaves}


def drawn(config):
    """A model whose every parameter is random, but for GeM's exponent."""
    rng = np.random.default_rng(2)
    weights = {name: rng.normal(0.1, 0.3, shape) for name, shape in shapes_of(config).items()}
    weights = {n: 1 + np.abs(a) if n.endswith(".var") else a for n, a in weights.items()}
    weights |= {n: np.full(a.shape, 3.0) for n, a in weights.items() if n.endswith(".p")}
    return build_model(
        config, {name: a.astype(param_dtype(config.dtype)) for name, a in weights.items()}
    )
