"""A backbone of one convolution, for tests of what surrounds a model: it compiles in a second."""

import jax
from flax import nnx

from mixvpr_jax import Backbone, register_backbone
from mixvpr_jax.models.layers import Conv
from mixvpr_jax.models.normalization import BatchNorm


class Tiny(nnx.Module):
    def __init__(self, *, dtype, rngs):
        self.conv1 = Conv(3, 16, 7, stride=8, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(16, dtype=dtype)

    def __call__(self, images, valid=None):
        return jax.nn.relu(self.bn1(self.conv1(images), valid))


@register_backbone
class TinyBackbone(Backbone):
    channels, stride = 16, 8

    def build(self, *, dtype, rngs):
        return Tiny(dtype=dtype, rngs=rngs)
