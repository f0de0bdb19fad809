"""How all processes of a test session compile, and where they keep their programs.

The environment tells the processes that tests start. They compile the same programs over and over,
eager operations as well: most of what a model costs at its start is a hundred small compilations.
"""

import atexit
import os
import shutil
import sys
import tempfile
from importlib.metadata import version

_FOLDER = "JAX_COMPILATION_CACHE_DIR"  # which workers inherit
_OURS = "MIXVPR_JAX_TEST_PROGRAMS"

if _OURS not in os.environ:
    os.environ[_OURS] = tempfile.mkdtemp(prefix="compiled")
    atexit.register(shutil.rmtree, os.environ[_OURS], ignore_errors=True)
os.environ[_FOLDER] = COMPILED = os.environ[_OURS]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Tests run a program once or twice: what LLVM takes to optimise it, they do not get back.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# XLA's newer way to write a fusion as loops, by way of MLIR, takes three times as long as its older
# one, and 32 small modules of LLVM take longer than one. Later versions have the newer way alone;
# XLA ends a process that sets a flag unknown to it.
QUICK = {}
"""Flag → its value here, and XLA's own."""
if version("jaxlib").startswith("0.10."):
    QUICK = {
        "xla_cpu_use_fusion_emitters": (False, True),
        "xla_cpu_parallel_codegen_split_count": (1, 32),
    }
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags += [f"--{name}={value}".lower() for name, (value, _) in QUICK.items()]
    os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys(flags))

# Processes share the package's compiled modules, also where the environment has Python keep none.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A process that was killed leaves half a program, and another may read one that is being written.
# JAX then warns and compiles it.
HALF_WRITTEN = "ignore:Error reading persistent compilation cache entry"
os.environ["PYTHONWARNINGS"] = ",".join(
    filter(None, (os.environ.get("PYTHONWARNINGS"), HALF_WRITTEN))
)
