"""What `python -m build` makes: a source archive of the whole repository, and the same wheel."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from folders import write_images

ROOT = Path(__file__).parent.parent
STRAY = ("out/run/model", "tests/__pycache__/a.pyc", "mixvpr_jax/.DS_Store", ".venv/pyvenv.cfg")
METADATA = ("PKG-INFO", "setup.cfg", "mixvpr_jax.egg-info/")
# Built with what is installed here: a build environment of its own needs the network.
BUILD = [sys.executable, "-m", "build", "--no-isolation"]

MINE = """from dataclasses import replace
from mixvpr_jax.training import load_recipe
config = replace(load_recipe("resnet50_mixvpr_4096")[0], epochs=12)
"""


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


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository's files."""
    copy = tmp_path_factory.mktemp("tree")
    for name in kept():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    return build(tree, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_source_archive_holds_the_repository_and_makes_the_same_wheel(tree, wheel, tmp_path):
    files, direct = kept(), members(wheel)
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
    assert members(build(unpacked, "wheel", tmp_path / "from archive")) == direct
    package = {name for name in files if name.startswith("mixvpr_jax/")}
    package |= {f"mixvpr_jax/{name}" for name in files if name.startswith("configs/")}
    assert {name for name in direct if ".dist-info/" not in name} == package


def test_the_installed_wheel_works_away_from_the_tree(wheel, weights, tmp_path):
    """In a fresh environment, which takes its dependencies from this one."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env", "--without-pip"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, timeout=120)
    # Not the editable installation: PYTHONPATH reads no .pth files.
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}

    def run(*command):
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout

    where = run(python, "-c", "import mixvpr_jax; print(mixvpr_jax.__file__)")
    assert where.startswith(str(tmp_path / "env"))
    for name in ("database", "queries"):
        write_images(tmp_path / name, ["a.jpg", "b.jpg"])
    folders = ["--database", "database", "--queries", "queries", "--output", "out"]
    run(python.with_name("mixvpr"), "eval", "--weights", weights, *folders)
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    mixvpr = python.with_name("mixvpr")
    run(mixvpr, "report", "out")
    assert "  resnet50_mixvpr_4096 " in run(mixvpr, "train", "--help")
    (tmp_path / "mine.py").write_text(MINE)
    assert "(default: 12)" in run(mixvpr, "train", "mine.py", "--help")
