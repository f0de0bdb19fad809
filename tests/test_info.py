"""`mixvpr info`: what a bug report needs, wherever it runs."""

import re
import subprocess
import sys
import tomllib

import flax
import jax
import numpy as np
from runs import ROOT

from mixvpr_jax import InputError, __version__, info


def told(capsys):
    info.info()
    return dict(re.findall(r"^ *(\S+): +(.*)$", capsys.readouterr().out, re.MULTILINE))


def test_versions_devices_and_caches(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXVPR_HOME", str(tmp_path))
    (tmp_path / "descriptors" / "key").mkdir(parents=True)
    (tmp_path / "descriptors" / "key" / "file").write_bytes(bytes(2_500_000))
    found = told(capsys)
    assert found["mixvpr-jax"] == __version__
    assert found["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert (found["jax"], found["flax"]) == (jax.__version__, flax.__version__)
    assert found["numpy"] == np.__version__
    assert found["devices"] == "8 x cpu cpu"
    assert found["engines"].startswith("jax")
    assert found["caches"] == str(tmp_path)
    assert found["descriptors"] == "2.5 MB"


def test_what_is_missing_names_its_extra(capsys, monkeypatch):
    monkeypatch.setattr(info, "installed", lambda name: None if name == "h5py" else "1.0")
    found = told(capsys)
    assert found["h5py"] == "missing; pip install 'mixvpr-jax[hloc]'"
    assert found["gcsfs"] == "1.0"


def test_no_device_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    code = "from mixvpr_jax.info import info; info()"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"^devices: +none: .*cuda", ended.stdout, re.MULTILINE)


def test_no_home(capsys, monkeypatch):
    def no_home():
        raise InputError("expected a home directory")

    monkeypatch.setattr("mixvpr_jax.released.cache_folder", no_home)
    assert told(capsys)["caches"] == "expected a home directory"


def test_extras_are_those_of_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package, extra in info.OPTIONAL.items():
        listed = project["optional-dependencies"][extra]
        assert any(re.match(rf"{package}\b", each) for each in listed), package
