"""What a model, a training run and an evaluation are: frozen values, with JSON and back."""

from mixvpr_jax.config.checks import closest
from mixvpr_jax.config.data import GSV_CITIES, AugmentationConfig, DataConfig
from mixvpr_jax.config.evaluation import EvaluationConfig
from mixvpr_jax.config.model import (
    AGGREGATORS,
    AggregatorConfig,
    ConvAPConfig,
    CosPlaceConfig,
    Dtype,
    GeMConfig,
    Interpolation,
    MixVPRConfig,
    ModelConfig,
)
from mixvpr_jax.config.processes import ALONE, ProcessConfig
from mixvpr_jax.config.training import (
    LossName,
    MinerName,
    OptimizerConfig,
    StartConfig,
    TrainConfig,
    ValidationConfig,
)

__all__ = [
    "AGGREGATORS",
    "ALONE",
    "GSV_CITIES",
    "AggregatorConfig",
    "AugmentationConfig",
    "ConvAPConfig",
    "CosPlaceConfig",
    "DataConfig",
    "Dtype",
    "EvaluationConfig",
    "GeMConfig",
    "Interpolation",
    "LossName",
    "MinerName",
    "MixVPRConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ProcessConfig",
    "StartConfig",
    "TrainConfig",
    "ValidationConfig",
    "closest",
]
