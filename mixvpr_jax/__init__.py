"""MixVPR in JAX and Flax: a photo goes in, a descriptor that says where it was taken comes out."""

from mixvpr_jax.config import (
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    MixVPRConfig,
    ModelConfig,
)
from mixvpr_jax.errors import InputError
from mixvpr_jax.linen import to_linen
from mixvpr_jax.models.vpr import VPRModel, create_model
from mixvpr_jax.preprocess import Preprocess
from mixvpr_jax.pretrained import from_pretrained, save_pretrained
from mixvpr_jax.version import __version__

__all__ = [
    "ConvAPConfig",
    "CosPlaceConfig",
    "GeMConfig",
    "InputError",
    "MixVPRConfig",
    "ModelConfig",
    "Preprocess",
    "VPRModel",
    "__version__",
    "create_model",
    "from_pretrained",
    "save_pretrained",
    "to_linen",
]
