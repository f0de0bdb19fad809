"""Reductions over masks, and over the devices of a parallel program."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

T = TypeVar("T")


def total(values: T, axis_name: str | None) -> T:
    """Sums a pytree of arrays over a mesh axis, in one collective; no axis: a single device."""
    return values if axis_name is None else lax.psum(values, axis_name)


def mean(losses: Array, weights: Array, axis_name: str | None) -> Float[Array, ""]:
    """Mean over what counts, on all devices together; zero where nothing does."""
    weights = weights.astype(losses.dtype)
    count = total(weights.sum(), axis_name)
    counted = jnp.where(weights > 0, losses, 0) * weights  # what does not count may be infinite
    return total(counted.sum(), axis_name) / jnp.maximum(count, 1)


def log_sum_exp(
    values: Float[Array, "r n"], keep: Bool[Array, "r n"], *, one: bool = False, empty: float = 0.0
) -> Float[Array, " r"]:
    """Log of the sum of exponentials of what is kept (and of `one`); `empty` where nothing is."""
    some = keep.any(1)
    kept = jnp.where(keep | ~some[:, None], values, -jnp.inf)  # finite gradients in empty rows
    result = jax.nn.logsumexp(kept, axis=1)
    result = jnp.logaddexp(result, 0.0) if one else result
    return jnp.where(some, result, empty)
