"""Export to Flax Linen."""

from __future__ import annotations

from typing import Any

import flax.linen
from flax import nnx

from mixvpr_jax.models.config import ModelConfig
from mixvpr_jax.models.vpr import VPRModel


def to_linen(
    model: VPRModel, *, train: bool = False
) -> tuple[flax.linen.Module, dict[str, dict[str, Any]]]:
    """Converts a model to a Linen module and its variables.

    Args:
        model: The model; its weights are shared, not copied.
        train: Whether the module normalises by the batch and updates `batch_stats`; apply it with
            `mutable=["batch_stats"]`.

    Returns:
        The module and {"params": …, "batch_stats": …}, nested dictionaries of plain arrays.

    Examples:
        >>> model, preprocess = from_pretrained("resnet50_4096")
        >>> module, variables = to_linen(model)
        >>> descriptors = module.apply(variables, preprocess(["street.jpg"]))
    """

    def build(config: ModelConfig, rngs: nnx.Rngs) -> VPRModel:
        built = VPRModel(config, rngs=rngs)
        built.train() if train else built.eval()
        return built

    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    variables = {name: nnx.to_pure_dict(nnx.state(model, kind)) for name, kind in kinds.items()}
    return nnx.bridge.to_linen(build, model.config), variables
