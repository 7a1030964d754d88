"""Standard streams that are closed, or no longer read: one line or a quiet end, and never a traceback."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

READERS = ["score -", "score --lines -", "score --jsonl -", "score --running -", "generate -", "train - --out run"]
WRITERS = [
    "generate a --max-characters 5",
    "generate a --max-characters 5 --samples 2",
    "generate a --max-characters 5 --json",
    "generate a --max-characters 5 --alternatives 2",
    "score --text abc",
    "score --text abc --heatmap",
    "score --text abc --json",
    "score FILE --html page.html --progress",
    "models",
    "models --json",
    "sessions list",
    "sessions open",
    "--help",
    "--version",
]


YOU = "\u4f60"


def shell(
    arguments: str, redirection: str, folder: Path, address: str = "", **variables: str
) -> "subprocess.CompletedProcess[str]":
    (folder / "FILE").write_text("The cat ate.\n")
    command = f'"$0" -m segue_client {arguments} {redirection}'
    environment = {"SEGUE_SERVER": address, "PATH": "", "PYTHONUTF8": "1", **variables}
    return subprocess.run(
        ["/bin/sh", "-c", command, sys.executable],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize("command", ["generate --max-characters 3", "score --text", "score --heatmap --text"])
def test_characters_that_the_output_lacks_are_escaped(server: Any, tmp_path: Path, command: str, encoding: str) -> None:
    ended = shell(f"{command} '{YOU}'", "", tmp_path, server.address, PYTHONIOENCODING=encoding)
    assert ended.returncode == 0, ended.stderr
    assert "\\u4f60" in ended.stdout


@pytest.mark.parametrize("command", READERS)
def test_a_closed_input_is_one_line(server: Any, tmp_path: Path, command: str) -> None:
    ended = shell(command, "<&-", tmp_path, server.address)
    assert ended.returncode == 2
    assert ended.stderr == "Error: standard input is closed: name a file instead of -, or redirect one with < FILE\n"


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_outputs_end_well(server: Any, tmp_path: Path, redirection: str) -> None:
    for command in WRITERS:
        ended = shell(command, redirection, tmp_path, server.address)
        assert ended.returncode == 0, (command, ended.stderr)
        assert "Traceback" not in ended.stderr
        assert len(ended.stderr.splitlines()) <= 1
    assert (tmp_path / "page.html").read_text().endswith("</html>\n")


@pytest.mark.parametrize("redirection", [">&-", "<&- >&- 2>&-"])
def test_bad_input_keeps_its_status_without_outputs(server: Any, tmp_path: Path, redirection: str) -> None:
    for command in ("score FILE --sort nothing", "generate --temperature 1000", "nonsense"):
        assert shell(command, redirection, tmp_path, server.address).returncode == 2


def test_a_file_does_not_get_the_number_of_a_closed_output(server: Any, tmp_path: Path) -> None:
    command = "generate a --max-characters 5 --ticket-out ticket"
    assert shell(command, "<&- >&- 2>&-", tmp_path, server.address).returncode == 0
    ended = shell("generate --ticket-in ticket --max-characters 5", "", tmp_path, server.address)
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("--lines --html page.html", "page.html"),
        ("--html page.html --heatmap", "page.html"),
        ("--window 5 --ticket-out ticket", "ticket"),
        ("--context The --candidate cat --candidate dog --ticket-out ticket", "ticket"),
    ],
)
def test_a_file_is_written_although_nobody_reads_the_rows(
    server: Any, tmp_path: Path, arguments: str, written: str
) -> None:
    (tmp_path / "log").write_text("The cat ate.\n" * 5000)
    file = "" if "--context" in arguments else "log"
    ended = shell(f"score {file} {arguments}", "| true; exit 0", tmp_path, server.address)
    assert ended.stderr == ""
    if written == "ticket":
        assert (tmp_path / written).stat().st_size > 100
    else:
        assert (tmp_path / written).read_text().endswith("</html>\n")


def test_the_state_is_kept_although_nobody_reads_the_text(server: Any, tmp_path: Path) -> None:
    command = "generate The --max-characters 900000 --ticket-out ticket"
    ended = shell(command, '| "$0" -c "import sys; sys.stdin.read(20)"; exit 0', tmp_path, server.address)
    assert "continue with --ticket-in ticket" in ended.stderr
    assert shell("generate --ticket-in ticket --max-characters 5", "", tmp_path, server.address).returncode == 0
