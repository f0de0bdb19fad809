"""Traces of some steps."""

from dataclasses import replace

import pytest
from runs import tiny_config, town  # noqa: F401

from mixvpr_jax import InputError
from mixvpr_jax.training.log import steps_to_profile
from mixvpr_jax.training.loop import train


def test_steps_are_traced(town, tmp_path, monkeypatch, caplog):  # noqa: F811
    traced = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: traced.append(folder))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: traced.append("end"))
    config = tiny_config(town, epochs=1)
    outcome = train(config, tmp_path / "run", profiled=range(2, 4))
    assert outcome.step == 4
    assert traced == [tmp_path / "run", "end"]
    assert "profile_steps" not in caplog.text
    longer = replace(config, epochs=2)
    for steps, taken in ((range(2, 5), 4), (range(9, 11), 8)):
        caplog.clear()
        assert train(longer, tmp_path / "run", profiled=steps).step == 8
        told = f"after {taken}, up to 8, found {steps[0]} to {steps[-1]}; nothing is traced"
        assert told in caplog.text
    assert traced == [tmp_path / "run", "end"]


def test_a_trace_is_a_file_that_tensorboard_knows(town, tmp_path):  # noqa: F811
    train(tiny_config(town, epochs=1), tmp_path / "run", profiled=range(3, 100))
    traces = list((tmp_path / "run" / "plugins" / "profile").glob("*/*.xplane.pb"))
    assert len(traces) == 1
    assert traces[0].stat().st_size > 1000


def test_which_steps():
    assert list(steps_to_profile("20:25")) == list(range(20, 26))
    assert list(steps_to_profile("3:3")) == [3]
    for text in ("", "5", "7:3", "0:3", "a:b", "1:2:3"):
        with pytest.raises(InputError, match="profile_steps: expected FIRST:LAST, such as 20:25"):
            steps_to_profile(text)
