"""The installed command `mixvpr`: what it lists, refuses and hands on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT

from mixvpr_jax import __version__, save_pretrained
from mixvpr_jax.cli import COMMANDS, parse
from mixvpr_jax.errors import InputError

MIXVPR = Path(sys.executable).with_name("mixvpr")


def run(*arguments, cwd=None):
    ended = subprocess.run(
        [MIXVPR, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_commands_are_listed(arguments):
    status, output, errors = run(*arguments)
    assert (status, errors) == (0, "")
    assert re.findall(r"^  (\w+) ", output, re.MULTILINE) == list(COMMANDS)


def test_version():
    assert run("--version") == (0, f"mixvpr-jax {__version__}\n", "")


@pytest.mark.parametrize("name", [*COMMANDS, "train demo", "convert to-flax", "convert to-torch"])
def test_each_command_has_help_of_its_own_name(name, monkeypatch):
    """Before it imports anything that takes long."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    status, output, told = run(*name.split(), "--help")
    assert status == 0
    assert output.startswith(f"usage: mixvpr {name} ")
    imported = set(re.findall(r"([\w.]+)$", told, re.MULTILINE))
    assert "tyro" in imported or name == "convert"
    assert not imported & {"jax", "flax", "numpy", "scipy", "PIL", "safetensors"}


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_tyro_mixvpr
echo "${COMPREPLY[*]}"
"""


def test_the_shell_completes_commands_recipes_and_options(tmp_path):
    status, script, errors = run("--print-completion", "bash")
    assert (status, errors) == (0, "")
    (tmp_path / "completion").write_text(script)

    def completed(*words):
        command = ["bash", "-c", COMPLETE, "bash", tmp_path / "completion", "mixvpr", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert set(completed("")) == {*COMMANDS, "-h", "--help"}
    assert completed("convert", "to-f") == ["to-flax"]
    assert completed("train", "resnet50_c") == ["resnet50_convap", "resnet50_cosplace"]
    assert completed("train", "demo", "--optimizer.lea") == ["--optimizer.learning-rate"]
    assert completed("eval", "--index", "") == ["exact", "approximate", "faiss"]
    line = "error: mixvpr --print-completion: unknown name 'csh'; closest: zsh, fish, bash\n"
    assert run("--print-completion", "csh") == (2, "", line)


def test_a_mistyped_command():
    line = "error: mixvpr: unknown name 'convrt'; closest: convert, report, export\n"
    assert run("convrt", "a.ckpt") == (2, "", line)


@pytest.mark.parametrize(
    "words",
    [
        ["report", "out"],
        ["export", "model", "m.onnx"],
        ["info"],
        ["describe", "a.jpg", "-o", "d.npy", "--weights", "w"],
        ["pairs", "out", "pairs.txt"],
        ["push", "model", "hf://a/b"],
        ["convert", "to-flax", "a.ckpt", "model"],
        ["train", "demo", "--workdir", "run"],
        ["eval", "--weights", "w", "--output", "o", "--dataset", "msls-val"],
    ],
    ids=lambda words: words[0],
)
def test_surplus_words(words):
    name, *rest = words
    with pytest.raises(InputError, match=rf"^mixvpr {name}.*, found b\.jpg 'c d';.*several photos"):
        parse(name, [*rest, "b.jpg", "c d"], f"mixvpr {name}")


def test_a_mistyped_option_is_told_with_the_closest(capsys):
    with pytest.raises(SystemExit):
        parse("report", ["out", "--compar", "other"], "mixvpr report")
    assert "--compare" in capsys.readouterr().err


def test_both_ways_away_from_the_tree(model, tmp_path):
    save_pretrained(model, tmp_path / "model")
    height, width = model.config.image_size
    assert run("convert", "to-torch", "model", "official.ckpt", cwd=tmp_path)[0] == 0
    options = ("--image-size", height, width, "--in-size", *model.config.feature_size)
    status, output, errors = run(
        "convert", "to-flax", "official.ckpt", "again", *options, cwd=tmp_path
    )
    assert (status, errors) == (0, ""), errors
    assert output.endswith("written: again\n")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again")]
    assert weights[0] == weights[1]


def test_a_recipe_by_its_path(town, tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text((ROOT / "configs" / "demo.py").read_text())
    arguments = ("--workdir", tmp_path / "run", "--data.root", town / "train", "--epochs", "0")
    status, _, errors = run("train", recipe, *arguments)
    assert (status, errors) == (2, "error: epochs: expected a number above 0, found 0\n")
    recipe.write_text("config = 3\n")
    line = f"error: {recipe}: expected config = TrainConfig(…), found 3\n"
    assert run("train", recipe, *arguments) == (2, "", line)
    line = f"error: {tmp_path}/other.py: expected a recipe, found no such file\n"
    assert run("train", tmp_path / "other.py", *arguments) == (2, "", line)


@pytest.mark.parametrize("name", ["mixvpr_jax", "mixvpr_jax.cli"])
def test_modules_stand_for_it(name):
    """-OO leaves no docstrings out of which to make help."""
    command = [sys.executable, "-OO", "-m", name]
    for words in (["--version"], ["convert", "--help"]):
        ended = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith(("mixvpr-jax ", "usage: mixvpr convert "))


def test_scripts_stand_for_commands():
    script = subprocess.run(
        [sys.executable, "eval.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    status, output, _ = run("eval", "--help")
    assert status == 0
    assert script.stdout.splitlines()[1:] == output.splitlines()[1:]


@pytest.mark.parametrize(
    "words",
    [
        ["export", "WEIGHTS", "OUT.onnx"],
        ["convert", "to-flax", "FILE.ckpt", "OUT"],
        ["convert", "to-torch", "WEIGHTS", "OUT.ckpt"],
        ["pairs", "FILE.npy", "OUT.txt"],
        ["places", "PHOTOS", "--output", "OUT"],
        ["describe", "PHOTOS", "--output", "OUT.npy", "--weights", "WEIGHTS"],
        ["pca", "PHOTOS", "--output", "OUT", "--size", "2", "--weights", "WEIGHTS"],
    ],
    ids=" ".join,
)
def test_folders_that_cannot_be_written_are_told_first(words, tmp_path):
    """Here one within a file; no command has looked at what it reads yet."""
    (tmp_path / "file").write_text("")
    name, *rest = [word.replace("OUT", f"{tmp_path}/file/deeper/out") for word in words]
    line = r"file/deeper\S*: expected a folder that can be written to, found: Not a directory; fix"
    with pytest.raises(InputError, match=line):
        parse(name, rest, f"mixvpr {name}")
