"""A ticket file is whole or absent."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest
from segue_client.commands.atomic_file import atomic_file, write_ticket


def test_a_ticket_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    write_ticket(tmp_path / "ticket", b"sealed")
    assert (tmp_path / "ticket").read_bytes() == b"sealed"
    assert (tmp_path / "ticket").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["ticket"]


def test_a_special_file_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(path.read_bytes)
        write_ticket(path, b"sealed")
        assert read.result(20) == b"sealed"
    assert path.is_fifo()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_the_old_ticket_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_arguments: object) -> NoReturn:
        raise OSError("disk full")

    path = tmp_path / "ticket"
    write_ticket(path, b"old")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        write_ticket(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("path", [Path("/dev/full"), Path("/proc/ticket")])
def test_an_error_names_the_file_that_the_user_gave(path: Path) -> None:
    with pytest.raises(OSError, match=f"'{path}'$"):
        write_ticket(path, b"sealed")


def test_a_full_disk_is_noticed_under_the_users_name(tmp_path: Path) -> None:
    program = (
        "import resource, sys, pathlib; from segue_client.commands.atomic_file import write_ticket\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_ticket(pathlib.Path('ticket'), b'x' * 2000)\n"
        "except OSError as error: print(error.strerror, error.filename)"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.stdout, ended.stderr) == ("File too large ticket\n", "")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_something_else_keeps_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError) as caught, atomic_file(tmp_path / "page"):
        raise BrokenPipeError(32, "Broken pipe")
    assert caught.value.filename is None
    assert list(tmp_path.iterdir()) == []
