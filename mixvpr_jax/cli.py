"""The command `mixvpr`; each of its commands loads its room only when it is called."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Union

from mixvpr_jax.checks import only, require_known
from mixvpr_jax.errors import run_command, run_words, starting
from mixvpr_jax.processes import run_and_leave
from mixvpr_jax.version import __version__

# name: what runs it, and its help. The parameters of a function are the options; CONVERT holds a
# function for each way; a module has a `parse` of its own.
COMMANDS = {
    "train": ("training.command", "Train a model; the same command again resumes it."),
    "eval": ("commands:evaluate", "Evaluate recall on a benchmark or on two folders of photos."),
    "describe": ("commands:describe", "Write the descriptors of photos to a file."),
    "pca": ("commands:pca", "Learn shorter descriptors, and write their model."),
    "pairs": ("commands:pairs", "Write pairs of photos to match, for hloc and COLMAP."),
    "places": ("places.command:places", "Make training data of photos whose positions are known."),
    "report": ("commands:report", "Write report.html again from an evaluation's output folder."),
    "export": ("commands:export", "Write a model as ONNX or StableHLO."),
    "convert": ("commands:CONVERT", "Convert PyTorch checkpoints to Flax and back."),
    "push": ("push:push", "Share a model on the Hugging Face Hub."),
    "info": ("info:info", "Print versions, devices, engines and caches, for a bug report."),
}
DISTRIBUTED = ("train", "eval")  # run by several processes, which must not wait at exit
USAGE = "usage: mixvpr COMMAND [options]; mixvpr COMMAND --help lists them"
COMPLETION = "--print-completion"
SHELLS = ("bash", "zsh", "fish")


def main(*words: str) -> None:
    """Runs `mixvpr` with these words before those of the command line: "train" in train.py."""
    arguments = [*words, *sys.argv[1:]]
    if not arguments or arguments[0] in ("-h", "--help", "--version", COMPLETION):
        run_command(lambda: _tell(arguments))
        return
    name, *rest = arguments
    prog = Path(sys.argv[0]).name if words else f"mixvpr {name}"
    with starting():
        require_known("mixvpr", name, COMMANDS)
        load(name)
    run = run_and_leave if name in DISTRIBUTED else run_command
    run(lambda: parse(name, rest, prog))


def load(name: str) -> Any:
    """The function, functions by name, or module of a command, as COMMANDS says."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = import_module(f"mixvpr_jax.{module}")
    return getattr(found, attribute) if attribute else found


def parse(name: str, arguments: list[str], prog: str) -> None:
    """Runs a command with these words after its name; errors are the caller's to report."""
    command = load(name)
    if isinstance(command, dict):
        if not arguments or arguments[0] in ("-h", "--help"):
            told = {way: (call.__doc__ or "").partition("\n")[0] for way, call in command.items()}
            _list(f"usage: {prog} WAY [options]\n\nways:", told)
            return
        way, *arguments = arguments
        require_known(prog, way, command)
        command, prog = command[way], f"{prog} {way}"
    if not callable(command):
        command.parse(arguments, prog)
        return
    for option in {"--database", "--queries"}.intersection(arguments if name == "eval" else ()):
        words = arguments[arguments.index(option) + 1 :]
        only(option, list(takewhile(lambda word: word[:1] != "-", words)))
    logging.basicConfig(format="%(message)s")
    run_words(command, arguments, prog)


def _list(title: str, told: Mapping[str, str]) -> None:
    sys.stdout.write(f"{title}\n")
    sys.stdout.writelines(f"  {name:10} {text}\n" for name, text in told.items())


def _tell(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        sys.stdout.write(f"mixvpr-jax {__version__}\n")
        return
    if arguments and arguments[0] == COMPLETION:
        _print_completion(" ".join(arguments[1:]))
        return
    _list(f"{USAGE}\n\ncommands:", {name: told for name, (_, told) in COMMANDS.items()})
    shells = "|".join(SHELLS)
    sys.stdout.write(f"\nmixvpr {COMPLETION} {shells} prints a script that completes them.\n")


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
    commands = {name: load(name) for name in COMMANDS}
    commands["train"] = commands["train"].interface()
    tyro.cli(
        any_of(commands),
        prog="mixvpr",
        args=["--tyro-print-completion", shell],
        config=(tyro.conf.AvoidSubcommands,),
    )


if __name__ == "__main__":
    main()
