"""`mixvpr train NAME --workdir DIR`; NAME is a file of configs/ or a path to one."""

from __future__ import annotations

import logging
import re
import shlex
import sys
import threading
from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Any

import tyro
from tqdm.contrib.logging import logging_redirect_tqdm

from mixvpr_jax.errors import extra, importing, run_words
from mixvpr_jax.processes import ALONE, ProcessConfig
from mixvpr_jax.training.config import RENAMED, TrainConfig
from mixvpr_jax.training.recipes import list_recipes, load_recipe

PROFILE = "FIRST:LAST: steps to trace, for TensorBoard's profile page (--logdir WORKDIR)."
WORKDIR = "Run directory (path or gs://…); an existing run is resumed."
USAGE = "usage: {0} NAME --workdir DIR [options]; {0} NAME --help lists them"


def parse(arguments: list[str], prog: str) -> None:
    """Trains as the command line says, or lists the recipes."""
    name, *options = arguments or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(f"{USAGE.format(prog)}\n\nrecipes:\n")
        for recipe in list_recipes():
            sys.stdout.write(f"  {recipe:24} {load_recipe(recipe)[1].splitlines()[0]}\n")
        return
    recipe, description = load_recipe(name)
    command, words = _command(recipe, _without_paths(arguments)), [*map(_renamed, options)]
    run_words(command, words, f"{prog} {name}", description)


def interface() -> dict[str, Callable[..., None]]:
    """What the command line calls, by recipe."""
    return {name: _command(load_recipe(name)[0], name) for name in list_recipes()}


def _command(recipe: TrainConfig, words: str) -> Callable[..., None]:
    def command(
        workdir: Annotated[str, tyro.conf.arg(metavar="DIR", help=WORKDIR)],
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = recipe,
        processes: Annotated[ProcessConfig, tyro.conf.arg(name="")] = ALONE,
        profile_steps: Annotated[str, tyro.conf.arg(help=PROFILE)] = "",
    ) -> None:
        with importing(), extra("train", "mixvpr train: expected its packages"):
            import mixvpr_jax.training.loop  # noqa: F401 (slow, and --help does without)
            from mixvpr_jax.distributed import joined
            from mixvpr_jax.programs import keep_memory, keep_programs

        keep_programs()
        with joined(processes, training=True):
            keep_memory()
            train_and_tell(config, workdir, profile_steps, f"mixvpr train {words}")

    return command


def _renamed(word: str) -> str:
    """An option by its present name; see `RENAMED`."""
    if found := re.fullmatch(r"--(no-)?([^=]+)(=.*)?", word, re.DOTALL):
        present = RENAMED.get(found[2].replace("-", "_"))
        if present is not None:
            return f"--{found[1] or ''}{present.replace('_', '-')}{found[3] or ''}"
    return word


def _without_paths(words: list[str]) -> str:
    """A command line for others, with names in place of paths."""
    split = (re.fullmatch(r"(--[^=]+=)?(.*)", word, re.DOTALL) for word in words)
    parts = ((found[1] or "", found[2]) for found in split if found)
    return shlex.join(option + (PurePath(value).name or value) for option, value in parts)


def train_and_tell(
    config: TrainConfig, workdir: str, profile_steps: str = "", command: str = ""
) -> None:
    """Trains and prints how it went."""
    from mixvpr_jax.distributed import is_main_process
    from mixvpr_jax.training.log import steps_to_profile
    from mixvpr_jax.training.loop import train

    mute_background()
    messages = logging.getLogger("mixvpr_jax")
    messages.setLevel(logging.INFO if is_main_process() else logging.WARNING)
    messages.propagate = False
    messages.addHandler(logging.StreamHandler(sys.stdout))
    profiled = steps_to_profile(profile_steps) if profile_steps else range(0)
    with logging_redirect_tqdm([messages]):
        outcome = train(config, workdir, profiled=profiled, command=command)
    if not is_main_process():
        return
    if outcome.model is None:
        reached = f"step {outcome.step} of {outcome.total_steps}"
        print(f"stopped at {reached}; run the same command to resume")
        return
    for metric, value in outcome.metrics.items():
        before = outcome.metrics_before.get(metric)
        compared = "" if before is None else f" ({before:.1f} before training)"
        print(f"{metric}: {value:.1f}{compared}")
    print(f"model: {outcome.model}")


def mute_background() -> None:
    """Mutes what fails in other threads: the main one reports it in a line."""
    for library in ("absl", "gcsfs"):  # absl is Orbax's
        logging.getLogger(library).setLevel(logging.CRITICAL)
    tell, tell_ignored = threading.excepthook, sys.unraisablehook

    def of_thread(found: threading.ExceptHookArgs) -> None:
        if not issubclass(found.exc_type, OSError):  # TensorBoard's, on a full disk
            tell(found)

    def ignored(found: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # the others are tensorstore's
            tell_ignored(found)

    threading.excepthook, sys.unraisablehook = of_thread, ignored
