import io

import pytest
from charlm_training import report as report_module
from charlm_training.loop import Progress
from charlm_training.report import ProgressReport
from rich.console import Console


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    """What a run of 100 steps, each a second long, displays."""
    clock = iter(range(1_000_000))
    monkeypatch.setattr(report_module.time, "monotonic", lambda: next(clock) / 3)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with ProgressReport(100, 1000, console) as report:
        for step in range(1, 101):
            report(Progress(step, 2.0, 2.5 if step == 50 else None))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_where_there_is_no_terminal_a_few_plain_lines_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, terminal=False).splitlines()
    assert 3 <= len(lines) <= 12
    assert all("loss 2.000  perplexity 7.39" in line and "characters/s" in line for line in lines)
    assert "validation 2.500" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    display = shown(monkeypatch, terminal=True)
    assert "\x1b" in display
    assert "100/100" in display
    assert "validation 2.500" in display
