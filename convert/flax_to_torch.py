"""Flax folder → PyTorch checkpoint: python -m convert.flax_to_torch DIR CKPT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mixvpr_jax.errors import run_command, starting

with starting(__name__):
    import tyro

    from mixvpr_jax.conversion import LayoutName, write_checkpoint
    from mixvpr_jax.pretrained import from_pretrained


def main(
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")],
    layout: LayoutName = "official",
    unfrozen_blocks: int = 1,
) -> None:
    """Writes a model as PyTorch code loads it, with strict=True.

    Args:
        weights: A model's folder or a released name.
        checkpoint: The file to write; a name ending in .safetensors gives that format.
        layout: Whose code will load it: that of MixVPR and gsv-cities, or OpenVPRLab's.
        unfrozen_blocks: num_unfrozen_blocks of OpenVPRLab's backbone there, on which names depend.
    """
    model, _ = from_pretrained(weights)
    write_checkpoint(model, checkpoint, layout=layout, unfrozen_blocks=unfrozen_blocks)
    if layout == "official" and model.config.interpolation == "bicubic":
        print("note: images of this model are resized bicubically, the official code's bilinearly")
    print(f"written: {checkpoint} ({model.config.arch}, {model.config.aggregator})")


if __name__ == "__main__":
    run_command(lambda: tyro.cli(main))
