"""Ctrl-C and SIGTERM at any moment of a command's start: real processes, real signals."""

import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import pytest

MOMENTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 1.1, 1.3, 1.5)
"""Seconds after the command can be stopped."""
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
SHAPE = ["--recipe=small", "--threads=1", "--no-report", "--set=batch=4", "--set=time=8", "--set=hidden=8"]


def segue(*arguments: object) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "segue_client", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_until_caught(process: "subprocess.Popen[str]") -> None:
    """Wait until the process handles SIGTERM: before, it is a Python that starts."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        (caught,) = (line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1):
            return
        time.sleep(0.005)


def stopped(number: signal.Signals, moment: float, *arguments: object) -> tuple[int, list[str]] | None:
    """Return the status and the messages; None if the command had ended before the signal."""
    with segue(*arguments) as process:
        wait_until_caught(process)
        time.sleep(moment)
        if process.poll() is not None:
            return None
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors.splitlines()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "cats.txt").write_text("the cat sat on the mat\n" * 200)
    with segue("train", folder / "cats.txt", "--out", folder / "run", "--set=steps=4", *SHAPE) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells what a process handles")
@pytest.mark.parametrize("command", ["train", "export", "evaluate"])
def test_a_signal_at_any_moment_of_the_start_ends_the_command(place: Path, tmp_path: Path, command: str) -> None:
    arguments = {
        "train": (place / "cats.txt", "--out", tmp_path / "new", "--set=steps=1000000", *SHAPE),
        "export": (place / "run", "--models", tmp_path / "models"),
        "evaluate": (place / "run", place / "cats.txt"),
    }[command]
    for moment, number in zip(MOMENTS, cycle(STATUS), strict=False):
        if (end := stopped(number, moment, command, *arguments)) is None:
            continue
        status, lines = end
        said = [line for line in lines if not line.startswith(("text: ", "step ", "  "))]
        assert status == STATUS[number], (moment, lines)
        assert len(said) <= 1, (moment, lines)
        assert all(line.startswith(f"stopped by {number.name}") for line in said), (moment, lines)
