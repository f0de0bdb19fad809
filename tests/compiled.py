"""Where all processes of a test session keep compiled programs: the same ones over and over."""

import atexit
import os
import shutil
import tempfile

_VARIABLE = "MIXVPR_JAX_TEST_PROGRAMS"  # which workers inherit

if _VARIABLE not in os.environ:
    os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="compiled")
    atexit.register(shutil.rmtree, os.environ[_VARIABLE], ignore_errors=True)
COMPILED = os.environ[_VARIABLE]
