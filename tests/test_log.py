"""What a run tells while it runs: the progress bar on a terminal."""

import io
import re
import sys

import numpy as np

from mixvpr_jax.training.log import Log
from mixvpr_jax.training.monitor import Monitor


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_bar(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    log = Log(tmp_path, step=0, total_steps=3)
    monitor = Monitor(log, rates=np.array([0.1, 0.2, 0.3]), log_every_steps=1)
    for step in (1, 2):
        monitor.add(step, 16, {"loss": np.float32(1.25), "batch_accuracy": np.float32(0.5)})
    monitor.drain()
    log.close()
    done, left = r"2/3 \[\d\d:\d\d<", r"\d\d:\d\d, "
    told = r".*loss=1\.250, accuracy=0\.50, lr=2\.00e-01, images/s=\d+\]"
    assert re.search(done + left + told, terminal.getvalue())


def test_no_bar_where_there_is_no_terminal(tmp_path, capsys):
    log = Log(tmp_path, step=0, total_steps=3)
    log.advance({"loss": "1.250"})
    log.close()
    assert capsys.readouterr() == ("", "")
