"""Which attention a device computes, and that all of them give the same."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixvpr_jax.models import transformer
from mixvpr_jax.models.transformer import attend, flash_attention

SHAPE = (2, 7, 3, 8)


def drawn(dtype):
    return jax.random.normal(jax.random.key(0), (3, *SHAPE)).astype(dtype)


def lowered(dtype, platform):
    """What a program of attention for a platform holds."""
    arrays = [jax.ShapeDtypeStruct(SHAPE, dtype)] * 3
    run = jax.jit(lambda *given: attend(*given, jax.lax.Precision.DEFAULT))
    return jax.export.export(run, platforms=[platform])(*arrays).mlir_module()


@pytest.fixture
def asked(monkeypatch):
    """The implementations that JAX is asked for, in a world where cuDNN's works."""
    found, original = [], jax.nn.dot_product_attention

    def recorded(query, key, value, implementation="xla", **options):
        found.append(implementation)
        return original(query, key, value, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", recorded)
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_flash_attention_is_for_bfloat16(dtype, asked):
    jax.eval_shape(lambda x: attend(*x, jax.lax.Precision.DEFAULT), drawn(dtype))
    assert ("cudnn" in asked) == (dtype == "bfloat16")


@pytest.mark.parametrize("lengths", [(7, 7), (6, 7), (7, 6), (6, 6)])
def test_padding_to_even_lengths_changes_nothing(lengths):
    x = jax.random.normal(jax.random.key(1), (2, max(lengths), 3, 8))
    query, key = (x[:, :length] for length in lengths)
    of_jax = functools.partial(transformer._by_jax, precision=jax.lax.Precision.HIGHEST)

    def of_even(*given, **options):
        assert all(len(array[0]) % 2 == 0 for array in given)
        return of_jax(*given, **options)

    def both(run):
        weights = jnp.arange(query.size, dtype="float32").reshape(query.shape)
        return run(query, key, key), jax.grad(lambda *x: (weights * run(*x)).sum())(query, key, key)

    ours = both(lambda *given: transformer._padded(of_even, *given))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), ours, both(of_jax)
    )


def test_older_gpus_have_no_flash_attention(asked, monkeypatch):
    class Turing:
        compute_capability = "7.5"

    monkeypatch.setattr(jax, "devices", lambda: [Turing()])
    jax.eval_shape(lambda x: attend(*x, jax.lax.Precision.DEFAULT), drawn("bfloat16"))
    assert asked and "cudnn" not in asked


def test_programs_to_run_elsewhere_have_none(asked):
    off = flash_attention.set(False)
    jax.eval_shape(lambda x: attend(*x, jax.lax.Precision.DEFAULT), drawn("bfloat16"))
    flash_attention.reset(off)
    assert "cudnn" not in asked


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="cuDNN may be here")
def test_a_gpu_without_cudnn():
    """Then the products of JAX."""
    assert "dot_general" in lowered("bfloat16", "cuda")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_all_give_the_same(dtype):
    x, exact = drawn(dtype), jax.lax.Precision.HIGHEST
    ours = transformer._image_by_image(*x, precision=exact)
    theirs = transformer._by_jax(*x, precision=exact)
    tolerance = 2e-2 if dtype == "bfloat16" else 1e-6
    pairs = (np.asarray(each.astype(jnp.float32)) for each in (ours, theirs))
    np.testing.assert_allclose(*pairs, rtol=0, atol=tolerance)
