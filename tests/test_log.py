"""What a run tells while it runs: the progress bar on a terminal."""

import io
import re
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from mixvpr_jax.errors import InputError
from mixvpr_jax.training.log import Log, Monitor, draw_curves, read_log


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_bar(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    log = Log(tmp_path, step=0, total_steps=3)
    monitor = Monitor(log, rates=np.array([0.1, 0.2, 0.3]), log_every_steps=1)
    metrics = {"loss": jnp.float32(1.25), "batch_accuracy": jnp.float32(0.5)}
    for step in (1, 2):
        monitor.add(step, {**metrics, "images": jnp.int32(16)})
    monitor.drain()
    log.close()
    done, left = r"2/3 \[\d\d:\d\d<", r"\d\d:\d\d, "
    told = r".*loss=1\.250, accuracy=0\.50, lr=2\.00e-01, images/s=\d+\]"
    assert re.search(done + left + told, terminal.getvalue())


def test_speed_is_of_real_images(tmp_path, monkeypatch):
    """Of the whole batch, as the step counts them; a last batch may be short."""
    counts = {1: jnp.int32(16), 2: jnp.int32(5)}
    metrics = {"loss": jnp.float32(1.25), "batch_accuracy": jnp.float32(0.5)}
    monkeypatch.setattr(time, "perf_counter", iter((0.0, 1.0, 2.0, 2.0)).__next__)
    log = Log(tmp_path, step=0, total_steps=2)
    monitor = Monitor(log, rates=np.array([0.1, 0.1]), log_every_steps=2)
    for step, images in counts.items():
        monitor.add(step, {**metrics, "images": images})
    monitor.drain()
    log.close()
    (entry,) = log.entries
    assert entry["images_per_second"] == (16 + 5) / 2
    assert "images" not in entry


@pytest.mark.parametrize(("there", "read"), [(True, [1, 2, 3]), (False, [1, 2])])
def test_speed_is_of_each_step(there, read, tmp_path, monkeypatch):
    """Also of the last one before a save; a CPU has computed a step when it is queued."""
    now = 0.0
    monkeypatch.setattr("mixvpr_jax.training.log._are_ready", lambda _: there)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    log = Log(tmp_path, step=0, total_steps=3)
    monitor = Monitor(log, rates=np.full(3, 0.1), log_every_steps=1)
    metrics = {"loss": jnp.float32(1.25), "batch_accuracy": jnp.float32(0.5)}
    for step in (1, 2, 3):
        now += 2.0
        monitor.add(step, {**metrics, "images": jnp.int32(16)})
    assert [entry["step"] for entry in log.entries] == read
    now += 2.0
    monitor.drain()
    log.close()
    first, *others = (entry["images_per_second"] for entry in log.entries)
    assert (first, *others) == (8 if there else 4, 8, 8)


def test_a_log_holds_nothing_of_later_steps(tmp_path):
    """What was logged after the checkpoint will be done, and logged, again."""
    lines = [f'{{"step": {step}, "loss": 1.0}}\n' for step in (1, 2, 3, 3, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    log = Log(tmp_path, step=3, total_steps=9)
    log.close()
    assert [entry["step"] for entry in log.entries] == [1, 2, 3, 3]
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(lines[:4])


NO_ENTRIES = ('{"step": "1"}', '{"step": true}', "{}", "[]", '{"step": 2, "loss": NaN}')
NO_ENTRIES += ('{"step": 2, "a/recall@1": "90"}', '{"step": 2, "validation_sets": null}')


@pytest.mark.parametrize("line", [b"\xff", *map(str.encode, NO_ENTRIES)])
def test_a_line_that_is_no_entry(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(InputError, match="line 2: expected an object with a step and finite"):
        read_log(tmp_path / "metrics.jsonl")


def test_no_bar_where_there_is_no_terminal(tmp_path, capsys):
    log = Log(tmp_path, step=0, total_steps=3)
    log.advance({"loss": "1.250"})
    log.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["_val", "x$^$y", "a$b$"])
def test_curves_of_sets_with_any_name(tmp_path, name):
    """Matplotlib hides labels that begin with an underscore, and takes dollars for formulas."""
    recalls = dict.fromkeys((f"{name}/recall@{k}" for k in (1, 20, "one")), 50.0)
    draw_curves([{"step": 1, **recalls}], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
