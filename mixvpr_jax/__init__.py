"""MixVPR in JAX and Flax: a photo goes in, a descriptor that says where it was taken comes out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mixvpr_jax.version import __version__

if TYPE_CHECKING:
    from mixvpr_jax.errors import InputError
    from mixvpr_jax.evaluation.search import Index
    from mixvpr_jax.models.config import (
        BoQConfig,
        ConvAPConfig,
        CosPlaceConfig,
        GeMConfig,
        MixVPRConfig,
        ModelConfig,
        SALADConfig,
    )
    from mixvpr_jax.models.plugins import (
        Aggregator,
        Backbone,
        register_aggregator,
        register_backbone,
    )
    from mixvpr_jax.models.vpr import VPRModel, create_model, to_linen
    from mixvpr_jax.place_map import Match, PlaceMap
    from mixvpr_jax.preprocess import Preprocess
    from mixvpr_jax.pretrained import from_pretrained, save_pretrained

__all__ = [
    "Aggregator",
    "Backbone",
    "BoQConfig",
    "ConvAPConfig",
    "CosPlaceConfig",
    "GeMConfig",
    "Index",
    "InputError",
    "Match",
    "MixVPRConfig",
    "ModelConfig",
    "PlaceMap",
    "Preprocess",
    "SALADConfig",
    "VPRModel",
    "__version__",
    "create_model",
    "from_pretrained",
    "register_aggregator",
    "register_backbone",
    "save_pretrained",
    "to_linen",
]

# Loaded on first use: a command handles Ctrl-C before it spends seconds on importing JAX.
_MODULES = {
    "models.config": tuple(name for name in __all__ if name.endswith("Config")),
    "errors": ("InputError",),
    "evaluation.search": ("Index",),
    "models.plugins": ("Aggregator", "Backbone", "register_aggregator", "register_backbone"),
    "models.vpr": ("VPRModel", "create_model", "to_linen"),
    "place_map": ("Match", "PlaceMap"),
    "preprocess": ("Preprocess",),
    "pretrained": ("from_pretrained", "save_pretrained"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
