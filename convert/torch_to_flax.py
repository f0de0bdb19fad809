"""PyTorch checkpoint → Flax folder: python -m convert.torch_to_flax CKPT DIR."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mixvpr_jax.errors import run_command, starting

with starting(__name__):
    import tyro

    from mixvpr_jax.conversion import convert_checkpoint
    from mixvpr_jax.pretrained import save_pretrained


def main(
    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")],
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    image_size: tuple[int, int] | None = None,
    in_size: tuple[int, int] | None = None,
    pool_size: tuple[int, int] | None = None,
    key: str | None = None,
) -> None:
    """Converts a PyTorch checkpoint into a folder that from_pretrained opens.

    Reads the released checkpoints, Lightning ones of MixVPR and gsv-cities, OpenVPRLab's,
    CosPlace's and EigenPlaces', torchvision's ImageNet weights (a bare trunk), and .safetensors
    files of the same names.

    Args:
        checkpoint: The file to read; nothing in it is executed.
        folder: Where model.safetensors, config.json and README.md go.
        image_size: Height and width that images are resized to, which no weight tells.
        in_size: Height and width of MixVPR's feature map, where shapes do not tell.
        pool_size: Rows and columns of ConvAP's cells, which no weight tells.
        key: Where in the file the weights lie (such as model_state_dict), if in several places.
    """
    conversion = convert_checkpoint(
        checkpoint, image_size=image_size, in_size=in_size, pool_size=pool_size, key=key
    )
    save_pretrained(conversion.model, folder)
    print(f"{conversion.summary()}\nwritten: {folder}")


if __name__ == "__main__":
    run_command(lambda: tyro.cli(main))
