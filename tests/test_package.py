"""What importing costs, and what is imported from where."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mixvpr_jax"
FORBIDDEN = (
    "torch",
    "tensorflow",
    "tensorflow_datasets",
    "grain",
    "orbax",
    "tensorboardX",
    "matplotlib",
    "tqdm",
    "tyro",
)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_nothing_outside_the_package_is_imported():
    """Which way imports point inside it, import-linter checks."""
    outside = {"tests", "configs", "convert", "demo", "reference_torch", "recipe"}
    for path in MODULES:
        assert not outside & {name.split(".")[0] for name in imports(path)}, path


def test_text_is_utf_8_whatever_the_locale():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            name, mode = node.func.attr, "".join(map(ast.unparse, node.args[:1]))
            opens = name == "open" and re.fullmatch("('[rwax]')?", mode)
            if opens or name in ("read_text", "write_text"):
                line = f"{path}:{node.lineno}"
                assert "encoding" in {keyword.arg for keyword in node.keywords}, line


def test_losses_import_nothing_else_of_the_package():
    for path in (PACKAGE / "losses").glob("*.py"):
        own = [name for name in imports(path) if name.split(".")[0] == "mixvpr_jax"]
        assert all(name.startswith("mixvpr_jax.losses") for name in own), path


def test_torch_is_imported_where_checkpoints_are_written_alone():
    inside = {p.name for p in MODULES if any(n.split(".")[0] == "torch" for n in imports(p))}
    assert inside == {"convert.py"}


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, mixvpr_jax\n"
        f"heavy = [name for name in {FORBIDDEN} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
        "missing = [name for name in mixvpr_jax.__all__ if not hasattr(mixvpr_jax, name)]\n"
        "assert not missing, missing\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_evaluating_loads_what_it_asks_for_alone():
    """eval.py runs without what other extras bring."""
    others = ("torch", "tensorflow", "tensorflow_datasets", "grain", "faiss", "matplotlib")
    code = (
        "import sys, mixvpr_jax.evaluation.evaluate, mixvpr_jax.evaluation.export_index\n"
        "import mixvpr_jax.commands\n"
        f"heavy = [name for name in {others} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_processes_that_read_photos_load_no_jax():
    """Each would take two seconds longer to start."""
    code = (
        "import sys, mixvpr_jax.evaluation.reading\n"
        "heavy = [name for name in ('jax', 'flax', 'scipy') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_training_loads_no_torch():
    """TensorBoard's writer would, and takes two seconds more."""
    code = (
        "import sys, mixvpr_jax.training.loop\n"
        "assert 'tensorboardX' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    if not os.environ.get("TESTS_WITHOUT_TORCH"):
        code += "import torch\n"  # whoever asks for it later gets it
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_the_wheel_holds_every_room():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {f"mixvpr_jax.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert set(settings["packages"]) == {"mixvpr_jax", "mixvpr_jax.configs", *rooms}


def test_files_stay_readable():
    sources = [*MODULES, *ROOT.glob("*.py"), *ROOT.glob("c*/*.py"), *ROOT.glob("demo/*.py")]
    long = {p.name: n for p in sources if (n := len(p.read_text().splitlines())) > 350}
    assert not long, long
