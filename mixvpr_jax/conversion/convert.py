"""PyTorch checkpoint → Flax model, and back: the whole way, with nothing silently dropped."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import jax
import numpy as np
from flax import nnx

from mixvpr_jax.checks import require_known
from mixvpr_jax.conversion.formats import Checkpoint, is_float, read_checkpoint
from mixvpr_jax.conversion.infer import Size, infer_config
from mixvpr_jax.conversion.key_table import to_flax, to_torch, torch_name
from mixvpr_jax.conversion.layouts import LayoutName, few, layout_of
from mixvpr_jax.errors import InputError, extra
from mixvpr_jax.models.backbones import RESNETS
from mixvpr_jax.models.config import ModelConfig, SALADConfig
from mixvpr_jax.models.swin import Swin
from mixvpr_jax.models.vpr import VPRModel, abstract_model, require_model
from mixvpr_jax.storage import as_path, atomic_write, local_copy


@dataclass(frozen=True)
class Conversion:
    """A converted model, and what was found on the way."""

    model: VPRModel
    checkpoint: Checkpoint

    def summary(self) -> str:
        """What was found, what was dropped on purpose and what was assumed, line by line."""
        config, checkpoint = self.model.config, self.checkpoint
        height, width = config.image_size
        is_resnet = config.arch in RESNETS
        arrays = checkpoint.state.items()
        count = sum(array.size for name, array in arrays if ".running_" not in name)
        lines = [
            f"found: {checkpoint.kind}, {len(arrays)} arrays used",
            f"backbone: {config.arch}" + (f", {config.num_stages} of 4 stages" * is_resnet),
            f"aggregator: {config.aggregator or 'none (a bare backbone)'}",
            f"images: {height}x{width}, {config.interpolation}; "
            f"descriptor: {config.descriptor_dim or 'none'}",
            f"parameters: {count:,}",
        ]
        for reason, names in checkpoint.dropped.items():
            lines.append(f"dropped: {len(names)} {reason} ({few(names)})")
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
        path: The file, on a disk or gs://; the kinds are those of `mixvpr convert to-flax`.
        image_size: Height and width of images in pixels, where the file tells none or others.
        in_size: Height and width of the feature map, where shapes alone do not tell.
        pool_size: ConvAP's cells, where the file does not tell.
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
    return Conversion(build_model(config, weights, source=str(path), rename=torch_name), checkpoint)


def to_state_dict(
    model: VPRModel, layout: LayoutName = "official", unfrozen_blocks: int = 1
) -> dict[str, np.ndarray]:
    """A model's weights as the state_dict of the code that has such a model, in NumPy arrays.

    Of MixVPR's authors, with the timm that they pin; MegaLoc's second release; BoQ's; or
    OpenVPRLab's, whose names for a ResNet depend on its `num_unfrozen_blocks`.

    Raises:
        InputError: A plug-in or a projection (but MegaLoc's), which no such code has; or one that
            OpenVPRLab does not have, or more blocks than there are.
    """
    require_known("layout", layout, get_args(LayoutName))
    config = model.config
    is_megaloc = isinstance(config.aggregator, SALADConfig) and config.arch == "dinov2_vitb14"
    foreign = f"the plug-in {config.plugin}" if config.plugin else None
    if config.projection is not None and not (is_megaloc and config.final_norm):
        foreign = f"a projection to {config.projection} values; convert what it was learned from"
    if foreign:
        raise InputError(f"PyTorch: expected a model that the official code has, found {foreign}")
    state = to_torch(get_weights(model))
    if isinstance(model.backbone, Swin):  # whose shifted windows' masks the official timm keeps
        state |= {
            f"backbone.model.layers.{stage}.blocks.{index}.attn_mask": np.asarray(block.mask())
            for stage, layer in enumerate(model.backbone.layers)
            for index, block in enumerate(layer.blocks)
            if block.shift
        }
    if config.projection is not None:
        del state["backbone.model.mask_token"]
    return layout_of(config, layout, unfrozen_blocks).to_theirs(state)


def write_checkpoint(
    model: VPRModel,
    path: str | os.PathLike[str],
    *,
    layout: LayoutName = "official",
    unfrozen_blocks: int = 1,
) -> None:
    """Writes `to_state_dict` as a PyTorch checkpoint, or as a `.safetensors` file.

    Raises:
        InputError: As `to_state_dict` does, or PyTorch is not installed.
    """
    path, state = as_path(path), to_state_dict(model, layout, unfrozen_blocks)
    with atomic_write(path) as temporary:
        if path.suffix == ".safetensors":
            import safetensors.numpy

            temporary.write_bytes(safetensors.numpy.save(state))
            return
        with extra("convert", f"{path}: expected PyTorch, which writes it (not .safetensors)"):
            import torch
        # By way of memory: torch.save reports a full disk as a RuntimeError of its own.
        buffer = io.BytesIO()
        torch.save({name: torch.tensor(array) for name, array in state.items()}, buffer)
        temporary.write_bytes(buffer.getvalue())


def get_weights(model: VPRModel) -> dict[str, np.ndarray]:
    """Parameters and batch_stats of a model by name (`backbone.conv1.kernel`, …)."""
    require_model(model)
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    return {_dotted(path): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def weights_hash(weights: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of named arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def build_model(
    config: ModelConfig,
    weights: Mapping[str, np.ndarray],
    *,
    source: str = "weights",
    rename: Callable[[str], str | None] = lambda name: name,
) -> VPRModel:
    """The model of a configuration, filled with weights by name, without initialising it first.

    Errors name the source, and parameters as `rename` gives them.

    Raises:
        InputError: A parameter left unfilled, an entry left over, another shape than expected, or
            a value that is not finite. Every such name is listed.
    """
    graph, state = nnx.split(abstract_model(config))
    leaves = {_dotted(path): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    problem = _problem({n: x.shape for n, (_, x) in leaves.items()}, weights, rename)
    if problem:
        raise InputError(f"{source}: {problem}")
    filled = [
        (path, leaf.replace(jax.device_put(np.array(weights[name], leaf.dtype))))
        for name, (path, leaf) in leaves.items()
    ]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _problem(
    expected: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, np.ndarray],
    rename: Callable[[str], str | None],
) -> str | None:
    """What keeps weights from filling parameters of these shapes, all names listed."""

    def listed(details: Mapping[str, object]) -> str:
        return ", ".join(sorted(f"{rename(n) or n}{d}" for n, d in details.items())) or "none"

    missing = {name: "" for name in expected if name not in weights}
    surplus = {name: "" for name in weights if name not in expected}
    if missing or surplus:
        return f"parameters left unfilled: {listed(missing)}; entries left over: {listed(surplus)}"
    found = {name: weights[name].shape for name in expected}
    if shapes := {
        name: f" (expected {list(shape)}, found {list(found[name])}, both in Flax's layout)"
        for name, shape in expected.items()
        if found[name] != shape
    }:
        return f"wrong shapes: {listed(shapes)}"
    if kinds := {n: f" ({a.dtype})" for n, a in weights.items() if not is_float(a.dtype)}:
        return f"expected floats, found: {listed(kinds)}"
    if broken := {name: "" for name, array in weights.items() if not np.isfinite(array).all()}:
        return f"values that are not finite in: {listed(broken)}"
    return None


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))
