"""What a command says of wrong input."""

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
