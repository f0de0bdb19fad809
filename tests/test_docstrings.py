"""The examples in docstrings run, and the site builds without a warning."""

import doctest
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import jax.numpy as jnp
import pytest
from recipe import GOLDEN

import mixvpr_jax
from mixvpr_jax.losses import mining

ROOT = Path(__file__).parent.parent
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.glob("mixvpr_jax/**/*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name, weights, tmp_path, monkeypatch):
    """A small model stands in for the released one, `street.jpg` is at hand."""
    (tmp_path / "resnet50_4096").symlink_to(weights)
    (tmp_path / "street.jpg").symlink_to(GOLDEN / "street.jpg")
    monkeypatch.setenv("MIXVPR_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    known = {"jnp": jnp, "all_pairs": mining.all_pairs} | {
        public: getattr(mixvpr_jax, public) for public in mixvpr_jax.__all__
    }
    result = doctest.testmod(import_module(name), extraglobs=known)
    assert result.attempted
    assert not result.failed


def test_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "mixvpr_jax.html").read_text()
    names = [name for name in mixvpr_jax.__all__ if name != "__version__"]
    assert all(f'id="mixvpr_jax.{name}"' in page for name in (*names, "VPRModel.__call__"))
    for path in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link)[^>]* (?:src|href)="(https?:[^"]*)', path.read_text()
        )
        assert not fetched, path
