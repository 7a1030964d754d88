"""The `segue` command itself: what it lists, loads, and how it ends."""

import os
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import click
import pytest
from click.testing import CliRunner, Result
from segue_client.commands import main as command_line
from segue_client.commands.early_signals import as_usual, end_at_once
from segue_client.commands.main import segue


def run(*arguments: str) -> Result:
    return CliRunner().invoke(segue, arguments, prog_name="segue")


def segue_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "segue_client", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put subcommands in place of the installed ones, by the functions that they run."""

    def put(**functions: Any) -> None:
        module = ModuleType("registered_commands")
        for name, function in functions.items():
            setattr(module, name, click.command(name)(function))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        points = [EntryPoint(name, f"{module.__name__}:{name}", command_line.ENTRY_POINT_GROUP) for name in functions]
        monkeypatch.setattr(command_line, "entry_points", lambda group: points)  # noqa: ARG005
        monkeypatch.delitem(segue.__dict__, "_entry_points", raising=False)

    segue.__dict__.pop("_entry_points", None)
    yield put
    segue.__dict__.pop("_entry_points", None)


def test_help_lists_the_clients_commands_and_loads_nothing_heavy() -> None:
    program = (
        "import sys; from segue_client.commands.main import segue\n"
        "try: segue.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'onnx', 'onnxruntime'} & set(sys.modules), 'heavy'"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert process.returncode == 0, process.stderr
    listed = {line.split()[0] for line in process.stdout.partition("Commands:")[2].splitlines() if line}
    assert {"generate", "score", "models", "demo", "train", "export", "serve"} <= listed


@pytest.mark.parametrize("command", [[], ["sessions"]])
def test_the_list_of_commands_has_whole_sentences(command: list[str]) -> None:
    listed = run(*command, "--help").output.partition("Commands:")[2]
    assert not [line for line in listed.splitlines() if line.endswith("...")]
    assert listed.rstrip().endswith(".")


def test_the_version_is_the_packages() -> None:
    assert run("--version").output.startswith("segue 0.")


def test_a_misspelt_command_is_answered_with_the_nearest() -> None:
    result = run("genrate")
    assert result.exit_code == 2
    assert "No such command 'genrate'. Did you mean 'generate'?" in result.output


def test_a_command_like_no_other_is_refused() -> None:
    result = run("xyzzy")
    assert result.exit_code == 2
    assert result.output.endswith("No such command 'xyzzy'.\n")


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("train", "in segue's checkout, pip install '.[train]'"),
        ("evaluate", "in segue's checkout, pip install '.[export]'"),
        ("export", "in segue's checkout, pip install '.[export]'"),
        ("serve", "in segue's checkout, pip install '.[server]' ('.[server-gpu]' for a GPU)"),
        ("other", "install heavy"),
    ],
)
def test_a_missing_extra_is_named(register: Any, command: str, remedy: str) -> None:
    def need() -> NoReturn:
        raise ModuleNotFoundError("No module named 'heavy.part'", name="heavy.part")

    register(**{command: need})
    result = run(command)
    assert (result.exit_code, result.output) == (1, f"Error: segue {command} needs heavy: {remedy}\n")


def test_a_command_that_cannot_be_imported_is_still_listed(monkeypatch: Any, register: Any) -> None:
    register(here=lambda: None)
    point = EntryPoint("serve", "heavy.cli:serve", command_line.ENTRY_POINT_GROUP)
    monkeypatch.setattr(command_line, "entry_points", lambda group: [point])  # noqa: ARG005
    assert "[needs heavy]" in run("--help").output
    for arguments in ([], ["models", "--port", "0"], ["--help"]):
        result = run("serve", *arguments)
        assert result.exit_code == 1
        assert result.output.startswith("Error: segue serve needs heavy: in segue's checkout, pip install '.[server]'")


def test_a_missing_part_of_segue_is_a_bug(register: Any) -> None:
    def need() -> NoReturn:
        raise ModuleNotFoundError("No module named 'segue_export'", name="segue_export")

    register(export=need)
    assert isinstance(run("export").exception, ModuleNotFoundError)


def test_an_expected_error_is_one_line_with_its_own_status(register: Any) -> None:
    class TooSmall(Exception):  # noqa: N818
        exit_code = 2

    def fail() -> NoReturn:
        raise TooSmall("the corpus is too small")

    register(train=fail)
    result = run("train")
    assert (result.exit_code, result.output) == (2, "Error: the corpus is too small\n")


def test_an_unexpected_error_keeps_its_traceback(register: Any) -> None:
    def fail() -> NoReturn:
        raise ZeroDivisionError

    register(train=fail)
    assert isinstance(run("train").exception, ZeroDivisionError)


def test_an_unwritable_file_is_one_line(register: Any) -> None:
    def fail() -> NoReturn:
        raise PermissionError(13, "Permission denied", "out.bin")

    register(train=fail)
    result = run("train")
    assert (result.exit_code, result.output) == (1, "Error: out.bin: Permission denied\n")


def test_a_full_disk_under_the_output_is_one_line(peer: Any) -> None:
    command = [sys.executable, "-m", "segue_client", "models", "--server", peer.address]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stderr) == (1, "Error: No space left on device\n")


def test_a_table_that_nobody_reads_ends_quietly(peer: Any) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "segue_client", "models", "--server", peer.address]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=30)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, click.Abort])
def test_an_interrupt_is_quiet(register: Any, kind: type[BaseException]) -> None:
    def wait() -> NoReturn:
        raise kind

    register(train=wait)
    result = run("train")
    assert (result.exit_code, result.output) == (130, "")


def test_a_commands_own_status_is_kept(register: Any) -> None:
    def end() -> None:
        click.get_current_context().exit(3)

    register(train=end)
    assert run("train").exit_code == 3


@pytest.mark.parametrize("command", [["models"], ["generate"], ["score", "--text", "abc"]])
def test_no_server_is_one_line_with_the_remedy(command: list[str], free_port: int) -> None:
    process = segue_process(*command, "--server", f"127.0.0.1:{free_port}")
    assert process.returncode == 1
    assert process.stdout == ""
    [line] = process.stderr.splitlines()
    assert f"127.0.0.1:{free_port}" in line
    assert "segue serve" in line


@pytest.mark.parametrize(("command", "usual"), [("generate", True), ("score", True), ("demo", True), ("train", False)])
def test_only_commands_with_large_imports_begin_with_signals_that_end_them_at_once(command: str, usual: bool) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    end_at_once()
    try:
        run(command, "--help")
        now = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert (now == before) is usual
    finally:
        as_usual()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        end_at_once()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        as_usual()
        signal.signal(signal.SIGINT, before)
