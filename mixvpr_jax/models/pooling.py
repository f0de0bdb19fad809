"""The other aggregators of the official repositories: ConvAP, CosPlace and GeM.

Official files: models/aggregators/{convap,cosplace,gem}.py of amaralibey/MixVPR and gsv-cities.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.lax import Precision
from jaxtyping import Array, Float

from mixvpr_jax.models.config import ConvAPConfig, CosPlaceConfig, Dtype, GeMConfig, ModelConfig
from mixvpr_jax.models.layers import l2_normalize, linear, param_dtype


class GeMPool(nnx.Module):
    """Generalised mean over the map's positions, with a learned exponent: [b, h, w, c] → [b, c].

    Powers are float32, since x**p overflows or loses precision in half precision.
    """

    epsilon = 1e-6

    def __init__(self, p: float = 3.0, *, dtype: Dtype) -> None:
        self.p = nnx.Param(jnp.full((1,), p, param_dtype(dtype)))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
        p = self.p[...]
        if x.dtype != p.dtype:
            # JAX 0.11 and 0.12 for CPUs fuse this with a ResNet-18's last stage, which gives NaN.
            x = lax.optimization_barrier(x)
        x = jnp.maximum(x.astype(p.dtype), self.epsilon)
        return (x ** p[None, None, None]).mean((1, 2)) ** (1 / p[None])


class GeM(GeMPool):
    """GeM pooling, L2-normalised: feature map [b, h, w, c] → descriptors [b, c]."""

    def __init__(self, config: ModelConfig, gem: GeMConfig, *, rngs: nnx.Rngs) -> None:
        del rngs  # nothing is drawn
        super().__init__(gem.p, dtype=config.dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
        return l2_normalize(super().__call__(x))


class CosPlace(nnx.Module):
    """Normalise each position, GeM, Linear, normalise: [b, h, w, c] → [b, out_dim]."""

    def __init__(self, config: ModelConfig, cosplace: CosPlaceConfig, *, rngs: nnx.Rngs) -> None:
        self.gem = GeMPool(dtype=config.dtype)
        self.fc = linear(config.feature_channels, cosplace.out_dim, dtype=config.dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        wide = self.fc.param_dtype
        x = self.fc(self.gem(l2_normalize(x.astype(wide))))
        return l2_normalize(x.astype(wide))


class ConvAP(nnx.Module):
    """1x1 convolution, average over s1 x s2 cells, normalise: [b, h, w, c] → [b, d * s1 * s2]."""

    def __init__(self, config: ModelConfig, convap: ConvAPConfig, *, rngs: nnx.Rngs) -> None:
        # A 1x1 convolution with a bias is a Linear layer over the channels.
        channels, pooled = config.feature_channels, convap.out_channels
        self.channel_pool = linear(channels, pooled, dtype=config.dtype, rngs=rngs)
        self.cells = convap.s1, convap.s2

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        wide = self.channel_pool.param_dtype
        x = self.channel_pool(x).astype(wide)
        rows, columns = (
            jnp.asarray(cell_weights(size, cells), wide)
            for size, cells in zip(x.shape[1:3], self.cells, strict=True)
        )
        x = jnp.einsum("bhwc,ih,jw->bcij", x, rows, columns, precision=Precision.HIGHEST)
        return l2_normalize(x.reshape(x.shape[0], -1))


def cell_weights(size: int, cells: int) -> np.ndarray:
    """Weight of each position in each cell's average, [cells, size].

    Cell i covers floor(i * size / cells) up to ceil((i + 1) * size / cells), as
    torch.nn.AdaptiveAvgPool2d divides an axis; neighbouring cells may share a position.
    """
    starts = np.arange(cells) * size // cells
    ends = -(-np.arange(1, cells + 1) * size // cells)
    positions = np.arange(size)
    inside = (positions >= starts[:, None]) & (positions < ends[:, None])
    return inside / inside.sum(1, keepdims=True)
