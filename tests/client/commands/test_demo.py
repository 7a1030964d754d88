"""The demo: how it handles its processes, for which small programs stand in, and a short run of the real thing."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from segue.v1 import model_pb2
from segue_client import Score
from segue_client.commands import demo
from segue_client.commands.demo import DemoFailed
from segue_client.commands.main import segue

POLITE = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(text: str) -> None:
        monkeypatch.setattr(demo, "_command", lambda *_arguments: [sys.executable, "-c", text])

    return put


def serve(folder: Path, seconds: float = 0) -> str:
    with demo._server(folder, folder / "state", folder / "server.log") as address:
        time.sleep(seconds)
        return address


def test_the_server_is_served_from_ready_to_sigterm(program: Any, tmp_path: Path) -> None:
    program(POLITE + "print('ready: 127.0.0.1:7', flush=True); time.sleep(60)")
    assert serve(tmp_path) == "127.0.0.1:7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit('no models')", "did not get ready"),
        ("print('hello')", "did not get ready"),
        ("print('ready: x:1', flush=True); raise SystemExit(3)", "status 3"),
        ("print('ready: x:1', flush=True); import time; time.sleep(60)", f"status {-signal.SIGTERM}"),
    ],
)
def test_a_server_that_fails_is_named_with_its_log(program: Any, tmp_path: Path, text: str, message: str) -> None:
    program(text)
    with pytest.raises(DemoFailed, match=rf"segue serve.*{message}.*server\.log") as caught:
        serve(tmp_path, seconds=0.5)
    assert "\n" not in str(caught.value)


def test_a_silent_server_is_stopped(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "START_SECONDS", 0.3)
    program(POLITE + "time.sleep(60)")
    with pytest.raises(DemoFailed, match="did not get ready"):
        serve(tmp_path)


def test_a_server_that_ignores_sigterm_is_killed(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STOP_SECONDS", 0.2)
    program(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready: x:1', flush=True); time.sleep(60)"
    )
    with pytest.raises(DemoFailed, match=f"status {-signal.SIGKILL}"):
        serve(tmp_path)


def test_a_failing_step_is_named(program: Any) -> None:
    program("raise SystemExit(4)")
    with pytest.raises(DemoFailed, match="`segue export` failed with status 4"):
        demo._run("export", "run")


def test_a_model_of_documents_gets_one_line_at_a_time(
    peer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    peer.models = [model_pb2.Model(name="demo", documents="lines", validation_loss=1.0)]
    (tmp_path / "names.txt").write_text("ada\nbob\n" * 100)
    monkeypatch.setattr(demo, "_run", lambda *_arguments: 0.0)
    monkeypatch.setattr(demo, "_server", lambda *_arguments: nullcontext(peer.address))
    monkeypatch.setattr(demo, "_judge", lambda *_scores: None)
    monkeypatch.setattr(signal, "signal", lambda *_arguments: None)
    result = CliRunner().invoke(segue, ["demo", str(tmp_path / "names.txt"), "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    _, *generations, natural, shuffle = peer.requests
    assert {request.prompt for request in generations} <= {"ada", "bob"}
    assert {"ada", "bob"} <= set(natural.texts)
    assert list(map(sorted, shuffle.texts)) == list(map(sorted, natural.texts))


def demonstrate(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "segue_client", "demo", *arguments]
    own = os.environ | {"SEGUE_STATE": str(folder / "not here"), "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, timeout=240, check=False)


def test_a_corpus_that_is_not_there_is_refused_before_training(tmp_path: Path) -> None:
    done = demonstrate(tmp_path, "*.txt")
    assert done.returncode == 2
    assert "no file" in done.stderr
    assert "`segue train` failed with status 2" in done.stderr
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_signal_saves_the_training_that_it_runs(tmp_path: Path, number: signal.Signals, whole_group: bool) -> None:
    (tmp_path / "cats.txt").write_text("the cat, which already ate a bunch of food, was full.\n" * 100)
    options = "--set steps=1000000 --set hidden=8 --set embedding=8 --set batch=4 --set time=8 --set evaluations=1000"
    command = [sys.executable, "-m", "segue_client", "demo", "cats.txt", *options.split()]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stderr
        assert any(line.startswith("step ") for line in process.stderr)  # it trains
        if whole_group:  # as a terminal does
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    *_, saved, last = errors.splitlines()
    assert saved.startswith(f"stopped by {number.name} after step ")
    assert saved.endswith("; continue with: segue train --resume demo/run")
    assert last.startswith(f"stopped by {number.name} in the step `segue train`; ")
    assert list((tmp_path / "demo" / "run").glob("state-*.safetensors"))


def parse(command: str) -> None:
    """Have click read a `segue` command as typed, without running it."""
    program, *words = shlex.split(command)
    assert program == "segue"
    group = segue.make_context("segue", words)
    name, subcommand, rest = segue.resolve_command(group, [*group._protected_args, *group.args])
    assert subcommand
    subcommand.make_context(name, rest)


def test_it_ends_with_commands_that_work_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cats.txt").write_text("the cat, which already ate a bunch of food, was full.\n" * 100)
    settings = ("steps=100", "warmup=10", "hidden=32", "embedding=16", "batch=8", "time=32", "evaluations=2")
    options = [word for setting in (*settings, "learning_rate=0.02") for word in ("--set", setting)]
    done = demonstrate(tmp_path, "cats.txt", "--folder", "my demo", *options)
    assert done.returncode == 0, done.stderr
    serve, generate, report = re.findall(
        r"Next:\n(?:  \. .*\n)?  (.*)\nIn another terminal:\n(?:  \. .*\n)?  (.*)\n.*: '(.*)'\n$", done.stdout
    )[0]
    assert serve == "segue serve 'my demo/models' --state 'my demo/state'"
    assert generate == "segue generate 'of food,' --temperature 0.7"
    assert (tmp_path / "my demo" / "state" / "keys").is_file()
    assert not (tmp_path / "not here").exists()
    assert not (tmp_path / ".local").exists()
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / shlex.split(serve)[2] / "demo").is_dir()
    assert (tmp_path / report).is_file()
    for command in (serve, generate):
        parse(command)


@pytest.mark.parametrize(("folder", "shown"), [(".", ".venv/bin/activate"), ("elsewhere", "{}/.venv/bin/activate")])
def test_a_virtual_environment_is_activated_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, shown: str
) -> None:
    script = tmp_path / ".venv" / "bin" / "activate"
    script.parent.mkdir(parents=True)
    script.touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    paths = (Path("demo/models"), Path("demo/state"), Path("demo/run/report.html"))
    lines = demo.next_steps(*paths, "The ").splitlines()
    assert lines.count(f"  . {shown.format(tmp_path)}") == 2
    assert {"  segue serve demo/models --state demo/state", "  segue generate 'The ' --temperature 0.7"} <= set(lines)
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert "activate" not in demo.next_steps(*paths, "The ")


def test_a_model_that_learned_no_order_fails() -> None:
    natural = Score(sum_log_probability=-3.0, scored_count=1)
    with pytest.raises(DemoFailed, match="natural passage"):
        demo._judge(natural, Score(sum_log_probability=-3.3, scored_count=1))
    demo._judge(natural, Score(sum_log_probability=-3.5, scored_count=1))
