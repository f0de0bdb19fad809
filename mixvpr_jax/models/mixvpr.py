"""MixVPR's aggregator (Ali-bey, Chaib-draa, Giguère, WACV 2023)."""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import Array, Float

from mixvpr_jax.config import Dtype, MixVPRConfig
from mixvpr_jax.models.layers import Sequence, linear, param_dtype
from mixvpr_jax.models.normalize import l2_normalize


class FeatureMixer(nnx.Module):
    """x + Linear(ReLU(Linear(LayerNorm(x)))) over the positions of every channel's map."""

    def __init__(self, positions: int, hidden: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        start = {
            "kernel_init": nnx.initializers.normal(0.02),
            "bias_init": nnx.initializers.zeros_init(),
        }
        self.norm = nnx.LayerNorm(
            positions,
            epsilon=1e-5,
            use_fast_variance=False,
            dtype=dtype,
            param_dtype=param_dtype(dtype),
            rngs=rngs,
        )
        self.expand = linear(positions, hidden, dtype=dtype, rngs=rngs, **start)
        self.project = linear(hidden, positions, dtype=dtype, rngs=rngs, **start)

    def __call__(self, x: Float[Array, "b c n"]) -> Float[Array, "b c n"]:
        return x + self.project(jax.nn.relu(self.expand(self.norm(x))))


class MixVPR(nnx.Module):
    """Feature map [b, in_h, in_w, in_channels] → descriptors [b, out_channels * out_rows]."""

    def __init__(
        self,
        in_channels: int,
        in_h: int,
        in_w: int,
        config: MixVPRConfig,
        *,
        dtype: Dtype = "float32",
        rngs: nnx.Rngs,
    ) -> None:
        positions = in_h * in_w
        hidden = int(positions * config.mlp_ratio)
        self.mix = Sequence(
            FeatureMixer(positions, hidden, dtype=dtype, rngs=rngs) for _ in range(config.mix_depth)
        )
        self.channel_proj = linear(in_channels, config.out_channels, dtype=dtype, rngs=rngs)
        self.row_proj = linear(positions, config.out_rows, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        batch, height, width, channels = x.shape
        # Positions go last, in the official order row * width + column.
        x = x.reshape(batch, height * width, channels).swapaxes(1, 2)
        x = self.mix(x)
        x = self.channel_proj(x.swapaxes(1, 2))  # [b, n, out_channels]
        x = self.row_proj(x.swapaxes(1, 2))  # [b, out_channels, out_rows]
        x = x.reshape(batch, -1)
        return l2_normalize(x.astype(self.row_proj.param_dtype))
