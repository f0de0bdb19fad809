"""Layers: values and derivatives of what JAX or Flax does not give as we need it."""

import jax
import jax.numpy as jnp
import numpy as np

from mixvpr_jax.models.layers import relu


def test_relu_is_that_of_jax():
    x = jnp.asarray([-np.inf, -1.0, -1e-45, -0.0, 0.0, 1e-45, 2.0, np.inf], jnp.float32)
    for ours, theirs in ((relu, jax.nn.relu), (jax.jit(relu), jax.jit(jax.nn.relu))):
        np.testing.assert_array_equal(ours(x), theirs(x))
        np.testing.assert_array_equal(*(jax.vmap(jax.grad(f))(x) for f in (ours, theirs)))
        second = (jax.vmap(jax.grad(jax.grad(f)))(x) for f in (ours, theirs))
        np.testing.assert_array_equal(*second)
