"""PyTorch checkpoints into Flax models and back, strictly, without running what a file holds."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixvpr_jax.conversion.convert import (
        Conversion,
        LayoutName,
        build_model,
        convert_checkpoint,
        get_weights,
        to_state_dict,
        weights_hash,
        write_checkpoint,
    )

__all__ = [
    "Conversion",
    "LayoutName",
    "build_model",
    "convert_checkpoint",
    "get_weights",
    "to_state_dict",
    "weights_hash",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Loads JAX on first use: `mixvpr convert --help` needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mixvpr_jax.conversion import convert

    return getattr(convert, name)
