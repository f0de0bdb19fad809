"""Trains a model: python train.py NAME --workdir DIR; NAME is a file of configs/."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

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

    mute_background()
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


def mute_background() -> None:
    """Keeps quiet what fails in other threads: the main one learns of it and tells it in a line."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax
    tell, tell_ignored = threading.excepthook, sys.unraisablehook

    def of_thread(found: threading.ExceptHookArgs) -> None:
        if not issubclass(found.exc_type, OSError):  # TensorBoard's, on a full disk
            tell(found)

    def ignored(found: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # the others are tensorstore's
            tell_ignored(found)

    threading.excepthook, sys.unraisablehook = of_thread, ignored


def end(status: int) -> None:
    """Ends the process now: threads of a save that failed would wait for each other for minutes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    try:
        run_command(main)
    except SystemExit as wanted:
        end(int(wanted.code or 0))
