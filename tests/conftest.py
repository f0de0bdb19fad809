"""Every test runs on 8 fake CPU devices, with typed shapes checked and implicit promotion off."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # whose threads would wait for each other's
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import compiled  # before JAX, which reads what it sets
import jax
import pytest
from hypothesis import settings
from jax._src import compiler
from jaxtyping import install_import_hook
from PIL import Image

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", compiled.COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
PACKAGE = Path(__file__).parent.parent / "mixvpr_jax"
# Configurations check their own values, and say what is wrong in a line.
CHECKED = [
    f"mixvpr_jax.{room}.{path.stem}"
    for room in ("data", "evaluation", "export", "losses", "models", "training")
    for path in (PACKAGE / room).glob("*.py")
    if path.stem not in ("__init__", "config")
]
install_import_hook(CHECKED, "typechecker.check")

# Descriptors that an evaluation keeps are no business of the user's own.
os.environ["MIXVPR_HOME"] = tempfile.mkdtemp(prefix="mixvpr_home")
atexit.register(shutil.rmtree, os.environ["MIXVPR_HOME"], ignore_errors=True)

# Anew each time on a developer's machine; the same cases each time where a red run blocks others.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Shared fixtures; pytest imports these once the lines above have run.
pytest_plugins = [
    "browser",
    "checkpoints",
    "folders",
    "parity",
    "prepared_cities",
    "report_pages",
    "runs",
    "searches",
    "small_model",
    "small_vits",
    "stores",
    "streets",
]


@pytest.fixture(autouse=True, scope="module")
def _forgotten_programs():
    """Programs stay in memory for one file's tests: those of all would take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def optimized(monkeypatch):
    """Compiles as users do, for the last bits of float32."""
    name = "jax_disable_most_optimizations"
    before, options_of = jax.config.read(name), compiler.get_compile_options

    def as_users(*arguments, **options):
        found = options_of(*arguments, **options)
        usual = [(flag, value) for flag, (_, value) in compiled.QUICK.items()]
        found.env_option_overrides = [*found.env_option_overrides, *usual]
        return found

    monkeypatch.setattr(compiler, "get_compile_options", as_users)
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", compiled.HALF_WRITTEN)


def pytest_collection_finish():
    """Spares the garbage collector what was imported: a tenth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture
def photo():
    """A street of 40x30 pixels."""
    return (
        Image.open(Path(__file__).parent / "golden" / "street.jpg").convert("RGB").resize((40, 30))
    )
