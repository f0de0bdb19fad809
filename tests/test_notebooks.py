"""The notebooks run from top to bottom, as a user's Jupyter would run them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path):
    """Runs a notebook in a tree that it may write to; its outputs, cell by cell."""

    def run(name):
        for part in ("demo", "tests"):
            (tmp_path / part).symlink_to(ROOT / part)
        (tmp_path / "notebooks").mkdir()
        source, copy = ROOT / "notebooks" / f"{name}.ipynb", tmp_path / "notebooks" / "run.ipynb"
        copy.write_text(source.read_text())
        cells = json.loads(source.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells), "strip the outputs"
        scripts = Path(sys.executable).parent
        path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [scripts / "jupyter-execute", "--inplace", copy],
            env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        cells = json.loads(copy.read_text())["cells"]
        return [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]

    return run


def test_quickstart(run):
    *_, shapes, neighbours, pictures = run("quickstart")
    assert shapes[0]["data"]["text/plain"] == ["((6, 256), (4, 256))"]
    assert neighbours[0]["data"]["text/plain"][0].startswith("array([[")
    assert "image/png" in pictures[0]["data"]


def test_train_and_evaluate(run, tmp_path):
    *_, curves, evaluated, recall = run("train_and_evaluate")
    assert "image/png" in curves[0]["data"]
    assert "R@1: " in "".join("".join(output["text"]) for output in evaluated)
    assert "'1': " in recall[0]["data"]["text/plain"][0]
    assert (tmp_path / "out" / "notebook" / "evaluation" / "report.html").exists()
