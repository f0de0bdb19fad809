"""What a command says of wrong input."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixvpr_jax.errors import InputError, run_command


def test_an_error_is_one_line_and_steers_no_terminal(capsys):
    error = InputError("a\nb\x1b[2J\u2028é \udce9", details=["c\rd"])
    assert str(error) == r"a\nb\x1b[2J\u2028é \udce9"

    def fail():
        raise error

    with pytest.raises(SystemExit):
        run_command(fail)
    assert capsys.readouterr().err == f"c\\rd\nerror: {error}\n"


def test_transfers_that_jax_was_told_to_refuse(capsys):
    with jax.transfer_guard("disallow"), pytest.raises(SystemExit) as ended:
        run_command(lambda: jax.block_until_ready(jnp.zeros(3) + np.ones(3)))
    assert ended.value.code == 2
    line = "error: JAX_TRANSFER_GUARD: expected arrays to reach devices, found: Disallowed "
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize(
    ("number", "line", "status"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_a_signal_inside_a_destructor_is_not_lost(number, line, status, capsys):
    """Python ignores what a destructor raises."""

    class Held:
        def __del__(self):
            os.kill(os.getpid(), number)

    def wait():
        held = Held()
        del held
        time.sleep(10)
        raise AssertionError("the signal was lost")

    with pytest.raises(SystemExit) as ended:
        run_command(wait)
    assert ended.value.code == status
    assert capsys.readouterr().err == f"{line}\n"
