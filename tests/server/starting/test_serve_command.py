"""Command lines of `segue serve` that cannot work: each is answered by one line, whose remedy is run and works."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SEGUE = shlex.join([sys.executable, "-m", "segue_client"])


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    command = re.sub(r"\bsegue\b", lambda _: SEGUE, command)
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(folder),
    )


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"SEGUE_STATE": str(folder / "state"), "LC_ALL": "C", "LANGUAGE": "", "PYTHONWARNINGS": ""}


def assert_serves(folder: Path, options: str) -> str:
    """Run `segue serve OPTIONS` until it is ready; return its address."""
    command = f"exec {SEGUE} serve {options} --device cpu"
    with subprocess.Popen(
        ["sh", "-c", command],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
        assert line.startswith("ready: "), errors
        assert process.returncode == 0
    return line.split()[1]


@pytest.fixture
def folder(models_folder: Path, tmp_path: Path) -> Path:
    """A folder of somebody who works with segue: `models` with `tm` 1, `runs/Names` with a checkpoint, and a file."""
    shutil.copytree(models_folder / "tiny" / "1", tmp_path / "models" / "tm" / "1")
    shutil.copytree(models_folder.parent / "checkpoint", tmp_path / "runs" / "Names")
    shutil.copytree(tmp_path / "models", tmp_path / "above" / "my models")
    shutil.copytree(tmp_path / "models" / "tm", tmp_path / "misnamed" / "Tm")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    return tmp_path


@dataclass(frozen=True)
class Case:
    """`remedies` finds the commands in the error message; the last one is that of a server."""

    wrong: str
    says: str
    remedies: str


PLACES = [
    Case("models/tm", "models/tm is inside a folder of models", r"name that: (segue serve models)$"),
    Case("models/tm/1", "models/tm/1 is inside a folder of models", r"name that: (segue serve models)$"),
    Case("models/tm/1/model.onnx", "is inside a folder of models", r"name that: (segue serve models)$"),
    Case("above", "above holds a folder of models", r"name that: (segue serve 'above/my models')$"),
    Case("misnamed", "misnamed/Tm is not served", r"rename it: (mv misnamed/Tm misnamed/tm)()$"),
    Case("runs", "runs holds checkpoints", r"export it: (segue export runs/Names .*); and then: (segue serve models)$"),
    Case("runs/Names", "is a checkpoint", r"export it: (segue export runs/Names .*); and then: (segue serve models)$"),
    Case("empty", "empty holds no model", r"write a model there with: (segue export CHECKPOINT --models empty)()$"),
    Case(
        "nowhere", "nowhere is not a folder", r"write a model there with: (segue export CHECKPOINT --models nowhere)()$"
    ),
    Case("file", "file is a file", r"write a model there with: (segue export CHECKPOINT --models models)()$"),
]


@pytest.mark.parametrize("case", PLACES, ids=lambda case: case.wrong)
def test_a_folder_that_is_none_of_models(folder: Path, case: Case) -> None:
    done = run(folder, f"segue serve {case.wrong} --port 0")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert line.startswith("Error: ")
    assert case.says in line
    remedy = re.search(case.remedies, line)
    assert remedy
    *before, serve = (command.replace("CHECKPOINT", "runs/Names") for command in remedy.groups())
    for command in before:
        helped = run(folder, command)
        assert helped.returncode == 0, helped.stderr
    again = serve or f"segue serve {'models' if case.wrong == 'file' else case.wrong}"
    assert_serves(folder, again.removeprefix("segue serve ") + " --port 0")


HOSTS = [
    ("127.0.0.1:4000", "holds a port", "--host 127.0.0.1 --port 4000"),
    ("localhost:4000", "holds a port", "--host localhost --port 4000"),
    ("[::1]:4000", "holds a port", "--host ::1 --port 4000"),
    ("127.0.0.1:99999", "holds a port", "--host 127.0.0.1"),
    ("http://127.0.0.1:4000/", "begins with a scheme", "--host 127.0.0.1 --port 4000"),
    ("http://localhost", "begins with a scheme", "--host localhost"),
    ("unix:/tmp/socket", "listens on TCP ports alone", "--host 127.0.0.1"),
    ("ipv4:127.0.0.1", "is neither an address nor the name", "--host 127.0.0.1"),
    ("", "is neither an address nor the name", "--host 127.0.0.1"),
    ("a b", "is neither an address nor the name", "--host 127.0.0.1"),
    ("[::1", "is neither an address nor the name", "--host 127.0.0.1"),
    ("0.0.0.0", "can be reached from other machines", "--insecure"),
    ("::", "can be reached from other machines", "--insecure"),
]


@pytest.mark.parametrize(("host", "says", "remedy"), HOSTS)
def test_a_host_that_is_none(folder: Path, host: str, says: str, remedy: str) -> None:
    done = run(folder, f"segue serve models --host {shlex.quote(host)}")
    assert (done.returncode, done.stdout) == (2, "")
    line = done.stderr.splitlines()[-1]
    assert line.startswith("Error: --host ")
    assert host in line
    assert says in line
    assert remedy in line


@pytest.mark.parametrize(
    "options",
    [
        "--host 127.0.0.1",
        "--host LOCALHOST",
        "--host '[::1]'",
        "--host ::1",
        "--host 127.0.0.2",
        "--host :: --insecure",
        "--host '[::]' --insecure",
        "--host 0.0.0.0 --insecure",
    ],
)
def test_every_way_to_write_an_address_of_this_machine(folder: Path, options: str) -> None:
    if "::" in options and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    assert_serves(folder, f"models --port 0 {options}")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_in_use_is_named_before_any_model_is_loaded(folder: Path, taken_port: int) -> None:
    for option in ("--port", "--metrics-port --port"):
        flag, *rest = option.split()
        options = f"{flag} {taken_port} " + " ".join(f"{each} 0" for each in rest)
        done = run(folder, f"segue serve models {options}")
        assert done.returncode == 1
        assert "INFO model" not in done.stderr
        line = done.stderr.splitlines()[-1]
        assert re.match(rf"Error: cannot .* on 127.0.0.1:{taken_port}: another program listens there", line)
        assert f"choose another {flag} (0: any free one)" in line


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ("--host nosuch.invalid --insecure", 1, "--host nosuch.invalid is not known"),
        (f"--host {'a' * 70} --insecure", 1, "is not known (not a name)"),
        ("--host 203.0.113.9 --insecure", 1, "this machine has no such address"),
        ("--port 7 --metrics-port 7", 2, "--metrics-port 7 is --port too"),
        ("--sessions foo", 2, "--sessions is 'foo'; it must be sqlite:PATH"),
        ("--session-gb 1 --sessions redis://127.0.0.1:1", 2, "--session-gb is for memory: and sqlite:"),
        ("--sessions sqlite:/proc/x", 1, "name another file: --sessions sqlite:PATH"),
        ("--keys models", 2, "File 'models' is a directory"),
        ("--keys file", 1, "the key file file, line 1: not an id"),
    ],
)
def test_other_options_that_cannot_work(folder: Path, options: str, status: int, says: str) -> None:
    (folder / "file").chmod(0o600)
    done = run(folder, f"segue serve models --port 0 {options}")
    assert done.returncode == status, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not done.stdout
