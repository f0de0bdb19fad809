"""Compiled programs that commands keep: where, until when, without a word if not; their memory."""

import os
import platform
import subprocess
import sys

import pytest
from runs import ROOT

from mixvpr_jax import programs

CODE = """
import sys, jax
from mixvpr_jax.programs import keep_programs
assert jax.config.jax_compilation_cache_dir == (sys.argv[1] or None)
keep_programs()
print(jax.config.jax_compilation_cache_dir)
print(jax.jit(lambda x: x + 1)(1))
"""


def run(home, own=""):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "MIXVPR_HOME": str(home)}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(own)} if own else {}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE, str(own)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_programs_are_kept_and_found_again(tmp_path):
    for _ in range(2):
        ended = run(tmp_path)
        [folder] = (tmp_path / "programs").iterdir()
        assert (ended.stdout, ended.stderr) == (f"{folder}\n2\n", "")
        kept = sorted(folder.glob("*-cache"))
        assert kept
    kept[0].write_bytes(b"of a killed process")
    assert run(tmp_path).stderr == ""


def test_jaxs_own_setting_wins(tmp_path):
    ended = run(tmp_path / "home", tmp_path / "own")
    assert (ended.stdout, ended.stderr) == (f"{tmp_path / 'own'}\n2\n", "")
    assert not (tmp_path / "home").exists()


def test_a_home_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    ended = run(tmp_path / "file")
    assert (ended.stdout, ended.stderr) == ("None\n2\n", "")


def test_other_processors_have_their_own_programs(monkeypatch):
    before = programs._processor()
    assert programs._processor() == before
    monkeypatch.setattr(
        "pathlib.Path.read_text", lambda *_, **__: "flags\t\t: fpu sse avx512f amx_tile\n"
    )
    assert programs._processor() != before


@pytest.mark.parametrize(("limit", "left"), [(0, ""), (10, "c"), (25, "ac"), (30, "abc")])
def test_what_was_read_longest_ago_goes(tmp_path, limit, left):
    (tmp_path / "processor").mkdir()
    for name, read in zip("abc", (200, 100, 300), strict=True):
        file = tmp_path / "processor" / f"{name}-cache"
        file.write_bytes(bytes(10))
        os.utime(file, (read, 50))
    (tmp_path / "processor" / "thesis.txt").write_text("mine")
    programs.evict(tmp_path, limit)
    found = sorted(file.name for file in (tmp_path / "processor").iterdir())
    assert found == [*(f"{name}-cache" for name in left), "thesis.txt"]


FAULTS = """
import ctypes, resource, sys
import jax, jax.numpy as jnp
from mixvpr_jax.distributed import joined
from mixvpr_jax.processes import ALONE
from mixvpr_jax.programs import keep_memory, trim_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # huge pages: one fault for 512 pages
with joined(ALONE, training=True):
    if sys.argv[1] == "kept":
        keep_memory()
    program = jax.jit(lambda x: jnp.sin(x @ x.T)[::3, ::3])
    x = jnp.ones((3_163, 8))  # its square takes 9,769 pages of 4 KiB
    print(min(faults() for _ in range(9)))  # the kernel adds some of its own
    trim_memory()
    print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, whose malloc is set")
@pytest.mark.parametrize(("case", "least", "most"), [("kept", 0, 1_000), ("left", 9_000, 99_999)])
def test_a_programs_memory_is_kept_from_one_call_to_the_next(case, least, most):
    ended = subprocess.run(
        [sys.executable, "-c", FAULTS, case],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    typical, after_trimming = map(float, ended.stdout.split())
    assert least <= typical <= most
    assert after_trimming > 9_000
