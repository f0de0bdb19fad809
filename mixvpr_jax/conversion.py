"""PyTorch checkpoint → Flax model, and back: the whole way, with nothing silently dropped."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixvpr_jax.architecture import Size, infer_config
from mixvpr_jax.checkpoints import Checkpoint, read_checkpoint
from mixvpr_jax.errors import InputError
from mixvpr_jax.files import beside
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.torch_weights import to_flax, to_torch, torch_name
from mixvpr_jax.weights import build_model, get_weights


@dataclass(frozen=True)
class Conversion:
    """A converted model, and what was found on the way."""

    model: VPRModel
    checkpoint: Checkpoint

    @property
    def parameter_count(self) -> int:
        """Numbers that training changes; running statistics are not among them."""
        state = self.checkpoint.state
        return sum(array.size for name, array in state.items() if ".running_" not in name)

    def summary(self) -> str:
        """What was found, what was dropped on purpose and what was assumed, line by line."""
        config, checkpoint = self.model.config, self.checkpoint
        height, width = config.image_size
        lines = [
            f"found: {checkpoint.kind}, {len(checkpoint.state)} arrays used",
            f"trunk: {config.arch}, {config.num_stages} of 4 stages",
            f"aggregator: {config.aggregator or 'none (a bare trunk)'}",
            f"images: {height}x{width}, descriptor: {config.descriptor_dim or 'none'}",
            f"parameters: {self.parameter_count:,}",
        ]
        for reason, names in checkpoint.dropped.items():
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            lines.append(f"dropped: {len(names)} {reason} ({shown})")
        return "\n".join(lines + [f"note: {note}" for note in checkpoint.notes])


def convert_checkpoint(
    path: Path, *, in_size: Size | None = None, pool_size: Size | None = None
) -> Conversion:
    """Reads a PyTorch checkpoint of any known kind into a Flax model.

    Args:
        path: A released checkpoint, a Lightning one of MixVPR or gsv-cities, one of OpenVPRLab,
            torchvision's ImageNet weights, or a `.safetensors` file of the same names.
        in_size: Height and width of the feature map, where shapes alone do not tell.
        pool_size: ConvAP's cells, where nothing tells.

    Raises:
        InputError: A file, name, shape or value that does not fit; the line says which.
    """
    checkpoint = read_checkpoint(path)
    try:
        config = infer_config(checkpoint, in_size=in_size, pool_size=pool_size)
        weights = to_flax(checkpoint.state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    model = build_model(config, weights, source=str(path), rename=torch_name)
    return Conversion(model, checkpoint)


def to_state_dict(model: VPRModel) -> dict[str, np.ndarray]:
    """A model's weights as the official state_dict, in NumPy arrays."""
    return to_torch(get_weights(model))


def write_checkpoint(model: VPRModel, path: Path) -> None:
    """Writes the official PyTorch checkpoint of a model (or a `.safetensors` file of its names)."""
    state = to_state_dict(model)
    with beside(path) as temporary:
        if path.suffix == ".safetensors":
            import safetensors.numpy

            temporary.write_bytes(safetensors.numpy.save(state))
            return
        try:
            import torch
        except ImportError:
            raise InputError("PyTorch is needed: pip install 'mixvpr-jax[convert]'") from None
        # By way of memory: torch.save reports a full disk as a RuntimeError of its own.
        buffer = io.BytesIO()
        torch.save({name: torch.tensor(array) for name, array in state.items()}, buffer)
        temporary.write_bytes(buffer.getbuffer())
