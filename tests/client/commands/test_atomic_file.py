"""A ticket file is whole or absent."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest
from segue_client.commands.atomic_file import write_ticket


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
