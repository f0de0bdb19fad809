"""The official training step in PyTorch, for MultiSimilarity: to be compared with, in tests and
benchmarks.

Written afresh after the papers and pytorch-metric-learning's definitions; `test_trajectory.py`
holds it to the golden trajectories.
"""

from __future__ import annotations

import torch_or_skip as torch
from reference import official_options
from reference_dinov2 import TorchModel
from reference_torch import VPRModel

from mixvpr_jax.models.config import ModelConfig
from mixvpr_jax.training.config import OptimizerConfig


def official_model(config: ModelConfig) -> VPRModel:
    """The reference of a configuration, with PyTorch's fresh weights."""
    name = config.aggregator.name
    return VPRModel(config.arch, config.layers_to_crop, name, official_options(config))


def mine(similarity, labels, epsilon=0.1):
    """MultiSimilarity's miner: masks of positive and negative pairs."""
    same = labels[:, None] == labels[None]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    hardest_negative = similarity.masked_fill(same, -torch.inf).amax(1, keepdim=True)
    hardest_positive = similarity.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
    return (
        positive & (similarity - epsilon < hardest_negative),
        ~same & (similarity + epsilon > hardest_positive),
    )


def multi_similarity(descriptors, labels, alpha=1.0, beta=50.0, base=0.0):
    """The loss over mined pairs, its mean over all images."""
    similarity = descriptors @ descriptors.T
    positive, negative = mine(similarity.detach(), labels)

    def soft_maximum(values, mask, scale):
        zero = torch.zeros_like(values[:, :1])
        kept = torch.cat([values.masked_fill(~mask, -torch.inf), zero], 1)
        return torch.logsumexp(kept, 1) / scale

    attract = soft_maximum(alpha * (base - similarity), positive, alpha)
    repel = soft_maximum(beta * (similarity - base), negative, beta)
    return (attract + repel).mean()


class ReferenceTraining:
    """A model, its optimizer and the step between them."""

    def __init__(self, model: VPRModel | TorchModel, config: OptimizerConfig) -> None:
        self.model = model.train()
        if config.layers_to_freeze is not None:
            self.freeze(config.layers_to_freeze)
        trained = [p for p in model.parameters() if p.requires_grad]
        rate, decay = config.learning_rate, config.weight_decay
        if config.name == "sgd":
            self.optimizer = torch.optim.SGD(
                trained, lr=rate, momentum=config.momentum, weight_decay=decay
            )
        else:
            self.optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=decay)

    def freeze(self, layers: int) -> None:
        """Frozen stages keep their weights; their BatchNorms stay in training mode."""
        if not isinstance(self.model, VPRModel):
            self.model.freeze(layers)
            return
        backbone = self.model.backbone.model
        stages = [getattr(backbone, f"layer{stage}") for stage in range(1, layers + 1)]
        for module in (backbone.conv1, backbone.bn1, *stages):
            module.requires_grad_(False)

    def step(self, images, labels, learning_rate: float, dtype=None):
        """One update; the loss before it. `dtype` computes the model under autocast."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            descriptors = self.model(images)
        loss = multi_similarity(descriptors.to(labels.device, images.dtype), labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
