"""What `python -m build` makes: a source archive of the whole repository, and the same wheel."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STRAY = ("out/run/model", "tests/__pycache__/a.pyc", "mixvpr_jax/.DS_Store", ".venv/pyvenv.cfg")
METADATA = ("PKG-INFO", "setup.cfg", "mixvpr_jax.egg-info/")
# Built with what is installed here: a build environment of its own needs the network.
BUILD = [sys.executable, "-m", "build", "--no-isolation"]


def kept():
    """The repository's files, ignored ones not among them."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git repository, which says what belongs to it")
    found = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in found.split("\0") if name and (ROOT / name).exists()}


def build(source, kind, output):
    """Builds a distribution of a source tree; what it made."""
    arguments = [*BUILD, f"--{kind}", "--outdir", output, source]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    [made] = output.iterdir()
    return made


def members(path):
    """The files in a wheel: name → content."""
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def test_the_source_archive_holds_the_repository_and_makes_the_same_wheel(tmp_path):
    files, tree = kept(), tmp_path / "tree"
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    wheel = members(build(tree, "wheel", tmp_path / "direct"))
    for name in STRAY:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("stray")
    archive = build(tree, "sdist", tmp_path / "archive")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    found = {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()}
    assert {name for name in found if not name.startswith(METADATA)} == files
    for name in files:
        assert (unpacked / name).read_bytes() == (tree / name).read_bytes(), name
    assert members(build(unpacked, "wheel", tmp_path / "from archive")) == wheel
    package = {name for name in files if name.startswith("mixvpr_jax/")}
    assert {name for name in wheel if ".dist-info/" not in name} == package
