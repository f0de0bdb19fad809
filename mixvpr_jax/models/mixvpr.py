"""MixVPR's aggregator (Ali-bey, Chaib-draa, Giguère, WACV 2023)."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import Dtype, MixVPRConfig, ModelConfig
from mixvpr_jax.models.layers import Sequence, l2_normalize, linear, param_dtype, relu, small_linear
from mixvpr_jax.models.normalization import layer_norm


class FeatureMixer(nnx.Module):
    """x + Linear(ReLU(Linear(LayerNorm(x)))) over the positions of each channel."""

    def __init__(self, positions: int, hidden: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        stored = param_dtype(dtype)
        self.norm = nnx.LayerNorm(positions, epsilon=1e-5, param_dtype=stored, rngs=rngs)
        self.expand = small_linear(positions, hidden, dtype=dtype, rngs=rngs)
        self.project = small_linear(hidden, positions, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "n a"]) -> Float[Array, "n a"]:
        hidden = relu(over_positions(self.expand, layer_norm(self.norm, x)))
        return x + over_positions(self.project, hidden)


class MixVPR(nnx.Module):
    """Feature map [b, h, w, c] → descriptors [b, out_channels * out_rows]."""

    def __init__(self, config: ModelConfig, mixvpr: MixVPRConfig, *, rngs: nnx.Rngs) -> None:
        rows, columns = config.feature_size
        positions, dtype = rows * columns, config.dtype
        hidden = int(positions * mixvpr.mlp_ratio)
        if hidden < 1:
            raise InputError(
                f"mlp_ratio: expected at least 1/{positions}, a hidden unit of a feature map of "
                f"{rows}x{columns}, found {mixvpr.mlp_ratio:g}"
            )
        self.mix = Sequence(
            FeatureMixer(positions, hidden, dtype=dtype, rngs=rngs) for _ in range(mixvpr.mix_depth)
        )
        channels, projected = config.feature_channels, mixvpr.out_channels
        self.channel_proj = linear(channels, projected, dtype=dtype, rngs=rngs)
        self.row_proj = linear(positions, mixvpr.out_rows, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        batch, *_, channels = x.shape
        # A row a position (row * width + column), a column a channel of an image: every mixer is
        # one product, without transposes. Flat, lest XLA puts the transpose off.
        x = x.reshape(batch, -1, channels).swapaxes(0, 1).reshape(-1, batch * channels)
        x = self.mix(x)
        # The projections commute, but for their biases; that of positions leaves less to compute.
        rows, over_channels = self.row_proj, self.channel_proj
        x = product(rows, x).reshape(-1, batch, channels)
        kernel = over_channels.kernel[...].astype(over_channels.dtype)
        x = jnp.einsum("rbc,co->bor", x, kernel, precision=over_channels.precision)
        bias = _bias(over_channels)[:, None] * rows.kernel[...].sum(0)[None] + _bias(rows)[None]
        x = x.astype(bias.dtype) + bias[None]
        return l2_normalize(x.reshape(batch, -1))  # descriptor index = channel * out_rows + row


def product(layer: nnx.Linear, x: Float[Array, "n a"]) -> Float[Array, "m a"]:
    """Multiplies by a Linear layer's kernel along the first axis."""
    # Without the barrier XLA folds the transpose into the product: twice the time on CPUs.
    transposed = lax.optimization_barrier(layer.kernel[...].astype(layer.dtype).T)
    return jnp.matmul(transposed, x, precision=layer.precision)


def over_positions(layer: nnx.Linear, x: Float[Array, "n a"]) -> Float[Array, "m a"]:
    """Applies a Linear layer along the first axis."""
    return product(layer, x) + _bias(layer).astype(layer.dtype)[:, None]


def _bias(layer: nnx.Linear) -> Float[Array, " m"]:
    assert layer.bias is not None
    return layer.bias[...]
