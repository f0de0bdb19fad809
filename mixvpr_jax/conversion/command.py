"""`mixvpr convert to-flax CKPT DIR` and `mixvpr convert to-torch DIR CKPT`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from mixvpr_jax.checks import require_known
from mixvpr_jax.conversion import LayoutName
from mixvpr_jax.errors import ending_at_once, run_command

_Checkpoint = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")]


def run(arguments: list[str], prog: str) -> None:
    """Converts as the command line says."""
    run_command(lambda: parse(arguments, prog))


def parse(arguments: list[str], prog: str) -> None:
    """The same; errors are the caller's to report."""
    ways = interface()
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: {prog} WAY [options]\n\nways:\n")
        for name, way in ways.items():
            sys.stdout.write(f"  {name:10} {(way.__doc__ or '').splitlines()[0]}\n")
        return
    name, *options = arguments
    require_known(prog, name, ways)
    tyro.cli(ways[name], prog=f"{prog} {name}", args=options)


def interface() -> dict[str, Callable[..., None]]:
    """What the command line calls, by name."""
    return {"to-flax": to_flax, "to-torch": to_torch}


def to_flax(
    checkpoint: _Checkpoint,
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    image_size: tuple[int, int] | None = None,
    in_size: tuple[int, int] | None = None,
    pool_size: tuple[int, int] | None = None,
    key: str | None = None,
) -> None:
    """Converts a PyTorch checkpoint into a folder that from_pretrained opens.

    Reads the released checkpoints, Lightning ones of MixVPR and gsv-cities, OpenVPRLab's, SALAD's,
    BoQ's, MegaLoc's, CosPlace's and EigenPlaces'; bare backbones of torchvision, timm, DINOv2's
    authors and Hugging Face; and .safetensors files of the same names.

    Args:
        checkpoint: The file to read; nothing in it is executed.
        folder: Where model.safetensors, config.json and README.md go.
        image_size: Height and width that images are resized to, which no weight tells.
        in_size: Height and width of MixVPR's feature map, where shapes do not tell.
        pool_size: Rows and columns of ConvAP's cells, which no weight tells.
        key: Where in the file the weights lie (such as model_state_dict), if in several places.
    """
    with ending_at_once():
        from mixvpr_jax.conversion.convert import convert_checkpoint
        from mixvpr_jax.model_card import converted_from
        from mixvpr_jax.pretrained import save_pretrained

    conversion = convert_checkpoint(
        checkpoint, image_size=image_size, in_size=in_size, pool_size=pool_size, key=key
    )
    save_pretrained(conversion.model, folder, origin=converted_from(checkpoint))
    print(f"{conversion.summary()}\nwritten: {folder}")


def to_torch(
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    checkpoint: _Checkpoint,
    layout: LayoutName = "official",
    unfrozen_blocks: int = 1,
) -> None:
    """Writes a model as PyTorch code loads it, with strict=True.

    Args:
        weights: A model's folder or a released name.
        checkpoint: The file to write; a name ending in .safetensors gives that format.
        layout: Whose code will load it: the official one of such a model (MixVPR and gsv-cities,
            SALAD, BoQ or MegaLoc), or OpenVPRLab's.
        unfrozen_blocks: num_unfrozen_blocks of OpenVPRLab's ResNet there, on which names depend.
    """
    with ending_at_once():
        from mixvpr_jax.conversion.convert import write_checkpoint
        from mixvpr_jax.pretrained import from_pretrained

    model, _ = from_pretrained(weights)
    write_checkpoint(model, checkpoint, layout=layout, unfrozen_blocks=unfrozen_blocks)
    config = model.config
    is_bicubic_there = config.aggregator_name == "BoQ" or not config.final_norm
    if layout == "official" and config.interpolation == "bicubic" and not is_bicubic_there:
        print("note: images of this model are resized bicubically, the official code's bilinearly")
    print(f"written: {checkpoint} ({config.arch}, {config.aggregator})")
