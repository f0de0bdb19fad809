"""PyTorch checkpoint → Flax model, and back: the whole way, with nothing silently dropped."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mixvpr_jax.checks import require_known
from mixvpr_jax.conversion.formats import Checkpoint, read_checkpoint
from mixvpr_jax.conversion.hyper_parameters import Size
from mixvpr_jax.conversion.infer import infer_config
from mixvpr_jax.conversion.key_table import to_flax, to_openvprlab, to_torch, torch_name
from mixvpr_jax.conversion.weights import build_model, get_weights
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.storage import as_path, atomic_write, local_copy

LayoutName = Literal["official", "openvprlab"]


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
        resized = f"{height}x{width}, {config.interpolation}"
        lines = [
            f"found: {checkpoint.kind}, {len(checkpoint.state)} arrays used",
            f"backbone: {config.arch}, {config.num_stages} of 4 stages",
            f"aggregator: {config.aggregator or 'none (a bare backbone)'}",
            f"images: {resized}; descriptor: {config.descriptor_dim or 'none'}",
            f"parameters: {self.parameter_count:,}",
        ]
        for reason, names in checkpoint.dropped.items():
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            lines.append(f"dropped: {len(names)} {reason} ({shown})")
        return "\n".join(lines + [f"note: {note}" for note in checkpoint.notes])


def convert_checkpoint(
    path: str | os.PathLike[str],
    *,
    image_size: Size | None = None,
    in_size: Size | None = None,
    pool_size: Size | None = None,
    key: str | None = None,
) -> Conversion:
    """Reads a PyTorch checkpoint of any known kind into a Flax model.

    Args:
        path: A released checkpoint, a Lightning one of MixVPR or gsv-cities, one of OpenVPRLab,
            CosPlace or EigenPlaces, torchvision's ImageNet weights, or a `.safetensors` file of
            the same names; on a disk or gs://.
        image_size: Height and width of images in pixels, where nothing tells or something else.
        in_size: Height and width of the feature map, where shapes alone do not tell.
        pool_size: ConvAP's cells, where nothing tells.
        key: Where in the file the weights lie, if there are several sets of them.

    Raises:
        InputError: A file, name, shape or value that does not fit; the line says which.
    """
    with local_copy(as_path(path)) as file:
        checkpoint = read_checkpoint(file, key)
    try:
        config = infer_config(
            checkpoint, image_size=image_size, in_size=in_size, pool_size=pool_size
        )
        weights = to_flax(checkpoint.state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    model = build_model(config, weights, source=str(path), rename=torch_name)
    return Conversion(model, checkpoint)


def to_state_dict(model: VPRModel) -> dict[str, np.ndarray]:
    """A model's weights as the official state_dict, in NumPy arrays."""
    return to_torch(get_weights(model))


def write_checkpoint(
    model: VPRModel,
    path: str | os.PathLike[str],
    *,
    layout: LayoutName = "official",
    unfrozen_blocks: int = 1,
) -> None:
    """Writes a PyTorch checkpoint of a model, or a `.safetensors` file of its names.

    Args:
        model: What to write.
        path: The file.
        layout: Whose names to write: those of MixVPR and gsv-cities, or OpenVPRLab's.
        unfrozen_blocks: OpenVPRLab's `num_unfrozen_blocks`, on which its names depend.

    Raises:
        InputError: More blocks than there are, or PyTorch is not installed.
    """
    path, state = as_path(path), to_state_dict(model)
    require_known("layout", layout, get_args(LayoutName))
    if layout == "openvprlab":
        state = to_openvprlab(state, unfrozen_blocks)
    with atomic_write(path) as temporary:
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
