"""The lock of an output folder, between real processes."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import pytest
from segue_training.errors import ConfigurationError, FolderInUse
from segue_training.output_folder import LOCK, locked, unless_empty

HOLD = """
import sys, pathlib
from segue_training.output_folder import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

COMPETE = """
import sys, pathlib
from segue_training.errors import FolderInUse
from segue_training.output_folder import locked, unless_empty
folder, entered = pathlib.Path(sys.argv[1]), 0
while entered < 40:
    try:
        with unless_empty(folder), locked(folder):
            inside = folder.parent / "inside"
            inside.touch(exist_ok=False)  # FileExistsError if another process is inside too
            inside.unlink()
            entered += 1
            raise InterruptedError  # a failure, after which the new folder is removed
    except (FolderInUse, InterruptedError):
        pass
print(entered)
"""


@contextmanager
def holding(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder), "a\nword"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_comes_second_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with holding(tmp_path / "run") as process, pytest.raises(FolderInUse) as refused, locked(tmp_path / "run"):
        pass
    assert refused.value.exit_code == 1
    message = str(refused.value)
    assert f"{tmp_path / 'run'} is in use by process {process.pid} on {socket.gethostname()}, since 20" in message
    assert f"kill -INT {process.pid}" in message
    assert "\n" not in message


def test_the_remedy_works(tmp_path: Path) -> None:
    with holding(tmp_path / "run") as process:
        process.send_signal(signal.SIGINT)
        process.communicate()
        with locked(tmp_path / "run"):
            pass


def test_no_death_leaves_a_lock_and_no_end_a_file(tmp_path: Path) -> None:
    with holding(tmp_path / "run") as process:
        process.kill()
        process.wait()
        assert (tmp_path / "run" / LOCK).exists()  # the file, not the lock
        with locked(tmp_path / "run"):
            assert str(os.getpid()) in (tmp_path / "run" / LOCK).read_text()
    assert list((tmp_path / "run").iterdir()) == []


def test_of_many_processes_one_at_a_time_is_inside(tmp_path: Path) -> None:
    """Also while the folder is made and removed, and the lock's file with it."""
    command = [sys.executable, "-c", COMPETE, str(tmp_path / "new" / "run")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert int(output) == 40
    assert [path for path in (tmp_path / "new").rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("left", [b"", b"{", b'{"pid": 1}', b"\xff", b"[]"])
def test_a_lock_whose_file_names_nobody_is_still_a_lock(tmp_path: Path, left: bytes) -> None:
    with holding(tmp_path):
        (tmp_path / LOCK).write_bytes(left)
        with pytest.raises(FolderInUse, match="in use by another process: wait for its end"), locked(tmp_path):
            pass


def test_a_folder_that_cannot_be_is_refused_and_nothing_new_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    with pytest.raises(ConfigurationError, match="Not a directory; give another --out"), locked(folder):
        pass
    new = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), unless_empty(new), locked(new):
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_file_that_its_holder_removes_meanwhile_is_not_mistaken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking it; the next process would make the file anew, and lock that."""
    real, calls = fcntl.flock, []

    def flock(file: FileIO, operation: int) -> None:
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(operation)
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        assert len(calls) == 2
        with pytest.raises(FolderInUse), locked(tmp_path):
            pass
