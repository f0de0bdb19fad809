"""The command `mixvpr`; each of its commands loads its room only when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Union

from mixvpr_jax.checks import require_known
from mixvpr_jax.errors import run_command, starting
from mixvpr_jax.version import __version__

# name: module whose `run(arguments, prog)` it is, and what it does. The module's `interface()` is
# the function whose parameters are the options, or several by name.
COMMANDS = {
    "train": ("training.command", "Train a model; the same command again resumes it."),
    "eval": ("evaluation.command", "Evaluate recall on a benchmark or on two folders of photos."),
    "describe": ("evaluation.describe_command", "Write the descriptors of photos to a file."),
    "pca": ("evaluation.pca_command", "Learn shorter descriptors, and write their model."),
    "pairs": ("evaluation.pairs_command", "Write pairs of photos to match, for hloc and COLMAP."),
    "places": ("places.command", "Make training data of photos whose positions are known."),
    "report": ("report.command", "Write report.html again from an evaluation's output folder."),
    "export": ("export.command", "Write a model as ONNX or StableHLO."),
    "convert": ("conversion.command", "Convert PyTorch checkpoints to Flax and back."),
    "push": ("push", "Share a model on the Hugging Face Hub."),
    "info": ("info", "Print versions, devices, engines and caches, for a bug report."),
}
USAGE = "usage: mixvpr COMMAND [options]; mixvpr COMMAND --help lists them"
COMPLETION = "--print-completion"
SHELLS = ("bash", "zsh", "fish")


def main(*words: str) -> None:
    """Runs `mixvpr` with these words before those of the command line.

    Args:
        words: What a script stands for: `main("train")` in train.py.
    """
    arguments = [*words, *sys.argv[1:]]
    if not arguments or arguments[0] in ("-h", "--help", "--version", COMPLETION):
        run_command(lambda: _tell(arguments))
        return
    name, *rest = arguments
    prog = Path(sys.argv[0]).name if words else f"mixvpr {name}"
    with starting():
        require_known("mixvpr", name, COMMANDS)
        command = import_module(f"mixvpr_jax.{COMMANDS[name][0]}")
    command.run(rest, prog)


def _tell(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        sys.stdout.write(f"mixvpr-jax {__version__}\n")
        return
    if arguments and arguments[0] == COMPLETION:
        _print_completion(" ".join(arguments[1:]))
        return
    listed = "\n".join(f"  {name:10} {told}" for name, (_, told) in COMMANDS.items())
    shells = "|".join(SHELLS)
    sys.stdout.write(
        f"{USAGE}\n\ncommands:\n{listed}\n\n"
        f"mixvpr {COMPLETION} {shells} prints a script that completes them.\n"
    )


def _print_completion(shell: str) -> None:
    import tyro

    def any_of(interface: Callable | dict[str, Any]) -> Any:
        if callable(interface):
            return interface
        named = (
            Annotated[Any, tyro.conf.subcommand(name, constructor=any_of(each))]
            for name, each in interface.items()
        )
        return Union[tuple(named)]  # noqa: UP007 (made of a tuple)

    require_known(f"mixvpr {COMPLETION}", shell, SHELLS)
    modules = {
        name: import_module(f"mixvpr_jax.{module}") for name, (module, _) in COMMANDS.items()
    }
    tyro.cli(
        any_of({name: module.interface() for name, module in modules.items()}),
        prog="mixvpr",
        args=["--tyro-print-completion", shell],
        config=(tyro.conf.AvoidSubcommands,),
    )
