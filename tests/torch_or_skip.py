"""PyTorch; where `.ci/newest` runs the tests without it, what needs it is skipped, nowhere else."""

import importlib
import os


def __getattr__(name):
    if name in ("__wrapped__", "__test__"):  # pytest asks, of everything in a module
        raise AttributeError(name)
    if os.environ.get("TESTS_WITHOUT_TORCH"):
        import pytest  # which benchmarks do without

        pytest.skip("needs PyTorch", allow_module_level=True)
    return getattr(importlib.import_module("torch"), name)
