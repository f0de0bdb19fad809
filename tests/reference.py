"""Ways between the PyTorch reference and the Flax model, shared by tests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import jax
import numpy as np
import torch_or_skip as torch

from mixvpr_jax.models.config import BoQConfig, ConvAPConfig, CosPlaceConfig, GeMConfig, ModelConfig

if TYPE_CHECKING:
    from reference_torch import VPRModel as TorchModel


def official_options(config: ModelConfig) -> dict:
    """The official constructor's arguments of an aggregator."""
    channels, aggregator = config.feature_channels, config.aggregator
    options = dict(vars(aggregator))
    match aggregator:
        case ConvAPConfig() | BoQConfig():
            return {"in_channels": channels, **options}
        case CosPlaceConfig():
            return {"in_dim": channels, **options}
        case GeMConfig():
            return options
    in_h, in_w = config.feature_size
    return {"in_channels": channels, "in_h": in_h, "in_w": in_w, **options}


def torch_model(config: ModelConfig, seed: int = 0) -> TorchModel:
    """The reference of a configuration in float64, every entry drawn at random."""
    from reference_torch import VPRModel as TorchModel

    generator = torch.Generator().manual_seed(seed)
    name = config.aggregator.name
    with torch.device("meta"):  # no initialisation, which takes longer than what follows
        model = TorchModel(config.arch, config.layers_to_crop, name, official_options(config))
    model = model.double().to_empty(device="cpu")
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if key.endswith("running_var"):
            tensor.copy_(0.5 + 0.5 * noise.abs())
        elif key.endswith(".p"):
            tensor.copy_(3 + 0.1 * noise)
        elif tensor.ndim > 1:
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        else:
            tensor.copy_(0.5 + 0.1 * noise)
    return model.eval()


def numpy_state(model: TorchModel) -> dict[str, np.ndarray]:
    """A state_dict as arrays, without the counters."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return {n: a for n, a in state.items() if not n.endswith("num_batches_tracked")}


@contextlib.contextmanager
def in_float64():
    """JAX in float64."""
    with jax.enable_x64(True):
        yield
