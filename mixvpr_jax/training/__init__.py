"""Training runs: configuration, optimizer, step, checkpoints, validation and the loop."""

from mixvpr_jax.data.config import AugmentationConfig, DataConfig
from mixvpr_jax.training.config import (
    OptimizerConfig,
    StartConfig,
    TrainConfig,
    ValidationConfig,
)

__all__ = [
    "AugmentationConfig",
    "DataConfig",
    "OptimizerConfig",
    "StartConfig",
    "TrainConfig",
    "ValidationConfig",
]
