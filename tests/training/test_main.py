import runpy
import sys

import click
import pytest
from segue_training.cli import train


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Run `python -m segue_training`; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["segue_training", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("segue_training", run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sed", "1"), "No such option '--sed'"),
        (("cats.txt", "--threads", "0"), "0 is not in the range x>=1"),
        (("no-such.txt",), "segue: no file and no corpus is called 'no-such.txt'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_before_the_first_step_has_the_status_of_that_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: click.Context) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "invoke", interrupt)
    assert run(monkeypatch, "cats.txt") == 130
