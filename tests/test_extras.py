"""Packages that only an extra installs: what does without them, and the line that installs them."""

import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import safetensors.numpy
from folders import write_images
from runs import ROOT

from mixvpr_jax import InputError, save_pretrained
from mixvpr_jax.conversion import write_checkpoint
from mixvpr_jax.errors import extra

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MODULES = {"faiss-cpu": "faiss", "tensorflow-datasets": "tensorflow_datasets"}
CORE = {"optax", "orbax-checkpoint", "importlib_resources"}  # which flax and etils bring
BLOCKED = """
import sys
class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {modules}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked)
"""
MIXVPR = "from mixvpr_jax.cli import main\nmain()"


def modules(*extras):
    """What these extras install."""
    names = (re.split("[>=]", package)[0] for name in extras for package in EXTRAS[name])
    return [MODULES.get(n, n) for n in names if n not in CORE and not n.startswith("mixvpr-jax")]


def run(arguments, *, without, program=MIXVPR, cwd=None):
    """Runs `mixvpr` as if the packages of some extras were not installed."""
    code = BLOCKED.format(modules=modules(*without)) + program
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture(scope="module")
def places(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("places")
    write_images(folder / "photos", ["a.jpg", "b.jpg"])
    save_pretrained(model, folder / "model")
    return folder


EVALUATE = "eval --weights model --database photos --queries photos --output out"
SHOW = "import runpy\nrunpy.run_module('mixvpr_jax.training.show', run_name='__main__')"


@pytest.mark.parametrize(
    ("command", "name", "program"),
    [
        ("train demo --workdir out", "train", MIXVPR),
        ("--config demo --output out", "train", SHOW),
        (f"{EVALUATE} --index faiss --faiss-factory Flat", "faiss", MIXVPR),
        ("describe photos --weights model -o out.h5", "hloc", MIXVPR),
        ("export model out.onnx", "onnxruntime", MIXVPR),
        (f"{EVALUATE} --engine openvino", "openvino", MIXVPR),
        ("convert to-torch model out", "convert", MIXVPR),
        ("convert to-torch gs://bucket/model out", "gcs", MIXVPR),
        ("convert to-torch hf://someone/model out", "hub", MIXVPR),
        ("push model hf://someone/model", "hub", MIXVPR),
    ],
)
def test_a_missing_extra_is_told_in_one_line(places, command, name, program):
    status, _, errors = run(command.split(), without=[name], program=program, cwd=places)
    assert status == 2, errors
    assert errors.startswith("error: ")
    assert errors.endswith(f"; pip install 'mixvpr-jax[{name}]'\n")
    assert errors.count("\n") == 1
    assert not (places / "out").exists()


def test_converting_needs_no_extra(places, model, tmp_path):
    every = [name for name in EXTRAS if name != "dev"]
    arguments = ("convert", "to-torch", "model", tmp_path / "official.safetensors")
    assert run(arguments, without=every, cwd=places)[::2] == (0, "")
    state = safetensors.numpy.load_file(tmp_path / "official.safetensors")
    assert "backbone.model.conv1.weight" in state
    convert = ("convert", "to-flax", "official.safetensors", "again", "--in-size", 6, 8)
    assert run(convert, without=every, cwd=tmp_path)[::2] == (0, "")
    write_checkpoint(model, tmp_path / "a.ckpt")
    checkpoint = ("convert", "to-flax", "a.ckpt", "third", "--in-size", 6, 8)
    assert run(checkpoint, without=every, cwd=tmp_path)[::2] == (0, "")
    folders = places / "model", tmp_path / "again", tmp_path / "third"
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1


def test_describing_and_evaluating_need_no_extra(places, tmp_path):
    every = [name for name in EXTRAS if name != "dev"]
    describe = ("describe", "photos", "--weights", "model", "-o", tmp_path / "d.npy")
    assert run(describe, without=every, cwd=places)[::2] == (0, "")
    assert np.load(tmp_path / "d.npy").shape == (2, 16)
    evaluate = EVALUATE.replace("--output out", f"--output {tmp_path / 'out'}").split()
    assert run(evaluate, without=every, cwd=places)[0] == 0


def test_an_import_that_fails_in_the_package_itself_is_a_bug():
    with pytest.raises(ImportError, match="cannot import name"), extra("train", "training"):
        from mixvpr_jax.errors import nothing  # noqa: F401
    line = "training, found: No module named 'no_such'; pip install"
    with pytest.raises(InputError, match=line), extra("train", "training"):
        import no_such  # noqa: F401
