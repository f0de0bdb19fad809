"""PyTorch checkpoints into Flax models and back, strictly, without running what a file holds."""

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
