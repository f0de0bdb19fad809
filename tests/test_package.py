"""What importing costs, and which way imports point."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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

# A layer may import those before it, and no layer may import tests, configs, convert or demo.
LAYERS = (
    ("errors", "version", "workers", "flock", "storage", "locks", "checks"),
    ("losses",),
    ("models",),
    ("orientation", "preprocess"),
    ("conversion",),
    ("released", "pretrained", "distributed"),
    ("listing",),
    ("data",),
    ("datasets",),
    ("evaluation",),
    ("report",),
    ("training",),
    ("cli",),
)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def layer(name):
    return next(index for index, names in enumerate(LAYERS) if name in names)


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = path.relative_to(PACKAGE).with_suffix("").parts[0] if path.stem != "command" else "cli"
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in ("tests", "configs", "convert", "demo", "reference_torch", "recipe")
        if top == "mixvpr_jax":
            assert layer(rest[0]) <= layer(here), f"{here} imports {name}"
        if here in ("losses", "data", "datasets"):
            assert top != "flax", f"{here} knows Flax"
        if here == "losses" and top == "mixvpr_jax":
            assert rest[0] == "losses", f"{here} imports {name}"


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
        "import mixvpr_jax.evaluation.command\n"
        f"heavy = [name for name in {others} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_training_loads_no_torch():
    """TensorBoard's writer would, and takes two seconds more."""
    code = (
        "import sys, mixvpr_jax.training.loop\n"
        "assert 'tensorboardX' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"  # whoever asks for it later gets it
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_files_stay_readable():
    sources = [*MODULES, *ROOT.glob("*.py"), *ROOT.glob("c*/*.py"), *ROOT.glob("demo/*.py")]
    long = {p.name: n for p in sources if (n := len(p.read_text().splitlines())) > 350}
    assert not long, long
