"""Trains a model: python train.py NAME --workdir DIR; NAME is a file of configs/."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tqdm.contrib.logging import logging_redirect_tqdm

from mixvpr_jax.config import TrainConfig
from mixvpr_jax.config.recipes import list_recipes, load_recipe
from mixvpr_jax.errors import run_command

CONFIGS = Path(__file__).parent / "configs"
USAGE = "python train.py NAME --workdir DIR [options]; python train.py NAME --help lists them"


def main() -> None:
    """Trains as the command line says, and prints where the model lies."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(f"{__doc__}\n\n{USAGE}\n\nrecipes:\n")
        for recipe in list_recipes(CONFIGS):
            first_line = load_recipe(CONFIGS, recipe)[1].splitlines()[0]
            sys.stdout.write(f"  {recipe:24} {first_line}\n")
        return
    recipe, description = load_recipe(CONFIGS, name)

    def command(
        workdir: Path, config: Annotated[TrainConfig, tyro.conf.arg(name="")] = recipe
    ) -> None:
        run(config, workdir)

    tyro.cli(
        command,
        prog=f"train.py {name}",
        description=description,
        args=arguments,
        config=(tyro.conf.AvoidSubcommands,),
    )


def run(config: TrainConfig, workdir: Path) -> None:
    """Trains, and tells how it went."""
    from mixvpr_jax.training.loop import train  # after --help has had its say

    messages = logging.getLogger("mixvpr_jax")
    messages.setLevel(logging.INFO)
    messages.propagate = False
    messages.addHandler(logging.StreamHandler(sys.stdout))
    with logging_redirect_tqdm([messages]):
        outcome = train(config, workdir)
    if outcome.model is None:
        print(f"stopped at step {outcome.step} of {outcome.total_steps}; the same command goes on")
        return
    for metric, value in outcome.metrics.items():
        before = outcome.metrics_before.get(metric)
        print(
            f"{metric}: {value:.1f}"
            + (f" ({before:.1f} before training)" if before is not None else "")
        )
    print(f"model: {outcome.model}")


if __name__ == "__main__":
    run_command(main)
