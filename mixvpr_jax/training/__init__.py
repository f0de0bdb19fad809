"""Training runs: configuration, optimizer, step, checkpoints, validation and the loop."""

from mixvpr_jax.data.config import AugmentationConfig, DataConfig
from mixvpr_jax.training.config import OptimizerConfig, StartConfig, TrainConfig, ValidationConfig
from mixvpr_jax.training.recipes import load_recipe

__all__ = [
    "AugmentationConfig",
    "DataConfig",
    "OptimizerConfig",
    "StartConfig",
    "TrainConfig",
    "ValidationConfig",
    "load_recipe",
]
