"""What workers share is made once, whole or not at all."""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = """
import time
from pathlib import Path

import pytest
from shared import once

LOG = Path(__file__).with_suffix(".log")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    def make(folder):
        with LOG.open("a") as log:
            log.write("made\\n")
        (folder / "file").write_text("half")
        time.sleep(0.3)
        {then}
        (folder / "file").write_text("whole")
        return folder / "file", time.time_ns()

    return once(tmp_path_factory, "made", make)


def test_made(made, record_property):
    path, stamp = made
    assert path.read_text() == "whole"
    record_property("made", f"{{path}} {{stamp}}")
"""


def two_workers(folder, then):
    """Runs the same test on both: pytest's status, output, and report."""
    (folder / "test_it.py").write_text(TESTS.format(then=then))
    options = ("-p", "xdist", "-n", "2", "--dist", "each")
    options += ("--junitxml", "report.xml", "--basetemp", "temporary")
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    ours = {"PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "test_it.py", "--rootdir", folder, *options],
        cwd=folder,
        env=environment | ours,
        capture_output=True,
        text=True,
    )
    return process.returncode, process.stdout, (folder / "report.xml").read_text()


def test_two_workers_get_the_same(tmp_path):
    status, output, report = two_workers(tmp_path, "pass")
    assert status == 0 and "2 passed" in output
    assert len(set(re.findall(r'name="made" value="(.+?)"', report))) == 1
    assert (tmp_path / "test_it.log").read_text() == "made\n"
    assert (tmp_path / "temporary" / "made" / "file").exists()


def test_what_fails_for_one_fails_for_the_other(tmp_path):
    status, output, _ = two_workers(tmp_path, "raise ValueError('no such town')")
    assert status == 1 and "2 errors" in output
    assert len(re.findall("E .*ValueError: no such town", output)) == 2
    assert (tmp_path / "test_it.log").read_text() == "made\n"
