"""Runs that are stopped, killed, damaged and resumed: real processes, real signals, real files."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from segue_client.commands.main import segue
from segue_training.output_folder import locked
from segue_training.train.checkpoint import Checkpoint, load_checkpoint
from segue_training.train.run_weights import load_run
from segue_training.train.train_state import read_train_state, step_of, train_state_files

SETTINGS = {"hidden": 24, "embedding": 8, "steps": 150, "batch": 8, "time": 16, "output_dropout": 0.2, "layers": 2}

PLAIN = ("--threads", "1", "--no-report", "--device", "cpu")


def arguments(*more: object) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    return [sys.executable, "-m", "segue_training", "--recipe", "small", *PLAIN, *settings, *map(str, more)]


def train(corpus: Path, folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments(corpus, "--out", folder, *more), capture_output=True, text=True, check=False)


@contextmanager
def training(corpus: Path, folder: Path, *more: object) -> Iterator["subprocess.Popen[str]"]:
    """Start a run that saves its state after every step."""
    command = arguments(corpus, "--out", folder, "--save-every", 0, *more)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def wait_for_step(process: "subprocess.Popen[str]", folder: Path, step: int) -> None:
    while not any(int(path.name.split("-")[1]) >= step for path in train_state_files(folder)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "cats.txt"
    words = random.Random(7).choices(["the", "cat", "sat", "on", "a", "mat", "and", "purred"], k=1400)
    path.write_text(" ".join(words))
    return path


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The checkpoint of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = train(corpus, folder)
    assert done.returncode == 0, done.stderr
    assert [step_of(path) for path in train_state_files(folder)] == [SETTINGS["steps"]]
    return load_checkpoint(folder)


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.steps == expected.steps
    assert [(e.step, e.training, e.validation) for e in found.history] == [
        (e.step, e.training, e.validation) for e in expected.history
    ]
    for name, weight in expected.weights.items():
        assert torch.equal(found.weights[name], weight), name


def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(
    corpus: Path, whole: Checkpoint, tmp_path: Path
) -> None:
    folder, steps = tmp_path / "run", random.Random(1)
    with training(corpus, folder) as process:
        wait_for_step(process, folder, 3)
        process.kill()
    for kill in itertools.count():
        assert kill < 20
        before = read_train_state(folder)[1].progression.step
        command = [sys.executable, "-m", "segue_training", "--resume", str(folder), "--save-every", "0", *PLAIN]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            if kill < 3:
                wait_for_step(process, folder, before + steps.randint(2, 30))
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
                continue
            _, errors = process.communicate()
            assert process.returncode == 0, errors
            break
    assert_same(load_checkpoint(folder), whole)
    assert [step_of(path) for path in train_state_files(folder)] == [SETTINGS["steps"]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_run_and_says_how_to_continue(
    corpus: Path, whole: Checkpoint, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "run"
    with training(corpus, folder) as process:
        wait_for_step(process, folder, 5)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    step = read_train_state(folder)[1].progression.step
    assert errors.splitlines()[-1] == (
        f"segue: stopped by {number.name} after step {step}; continue with: segue train --resume {folder}"
    )
    done = resume(folder)
    assert done.exit_code == 0, done.stderr
    assert_same(load_checkpoint(folder), whole)


@pytest.fixture(scope="module")
def stopped(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run ended by SIGTERM; copy it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with training(corpus, folder) as process:
        wait_for_step(process, folder, 5)
        process.terminate()
        assert process.wait() == 143
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def resume(folder: Path, *more: object) -> Result:
    """Resume in this process."""
    return CliRunner().invoke(segue, ["train", "--resume", str(folder), "--no-report", *map(str, more)])


def test_a_damaged_state_is_named_and_the_previous_one_leads_to_the_same_end(folder: Path, whole: Checkpoint) -> None:
    newest = train_state_files(folder)[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    refused = resume(folder)
    assert refused.exit_code == 1
    assert f"{newest} is damaged" in refused.stderr
    offered = re.search(r"add (--step) (\d+) to resume from the previous one", refused.stderr)
    assert offered, refused.stderr
    done = resume(folder, *offered.groups())
    assert done.exit_code == 0, done.stderr
    assert_same(load_checkpoint(folder), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "éé" * 9, "the run began with a vocabulary of"),
        (lambda text: text[:-1] + "d", "the run began with a text of SHA-256"),
    ],
)
def test_another_vocabulary_or_text_is_refused_and_nothing_is_lost(
    corpus: Path, folder: Path, tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(change(corpus.read_text()))
    if "é" in other.read_text():
        other.write_text("é" + other.read_text())
    before = train_state_files(folder)
    refused = resume(folder, other)
    assert (refused.exit_code, message in refused.stderr) == (1, True), refused.stderr
    assert train_state_files(folder) == before


def test_another_shape_is_refused_and_a_new_run_in_its_folder_too(corpus: Path, folder: Path) -> None:
    before = train_state_files(folder)
    refused = resume(folder, "--set", "hidden=32")
    assert refused.exit_code == 2
    assert "the run began with hidden=24, which cannot become 32" in refused.stderr
    again = CliRunner().invoke(segue, ["train", str(corpus), "--out", str(folder)])
    assert again.exit_code == 2
    assert f"holds a stopped run: continue it with --resume {folder}" in again.stderr
    assert train_state_files(folder) == before


def test_a_run_that_diverges_keeps_its_last_good_state_and_continues_with_a_lower_rate(folder: Path) -> None:
    rates = ("--set", "learning_rate=100", "--set", "weight_decay=10", "--save-every", 0)
    diverged = resume(folder, *rates)
    assert diverged.exit_code == 1
    kept = re.search(
        r"; step (\d+) is saved: segue train --resume \S+ --set learning_rate=50$", diverged.stderr.strip()
    )
    assert kept, diverged.stderr
    _, train_state = read_train_state(folder)
    assert train_state.progression.step == int(kept[1])
    assert all(tensor.isfinite().all() for tensor in train_state.tensors.values())
    assert not (folder / "checkpoint.json").exists()


def torchrun(processes: int, *command: object) -> "subprocess.CompletedProcess[str]":
    ours = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    port = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*ours, *port, *map(str, command)], capture_output=True, text=True, check=False, env=environment, timeout=300
    )


def test_two_processes_do_together_what_one_does_with_the_same_minibatches(corpus: Path, tmp_path: Path) -> None:
    """The loss curves agree up to rounding, which AdamW would amplify in weights that hardly matter.

    Dropout is off, since each process draws its own.
    """
    settings = ("output_dropout=0", "steps=40", "evaluations=20", "reset_rate=0.2", "optimizer=sgd", "learning_rate=1")
    plain = [f"--set={setting}" for setting in settings]
    for done in (
        torchrun(2, *arguments(corpus, "--out", tmp_path / "two", *plain)[1:]),
        train(corpus, tmp_path / "one", *plain),
    ):
        assert done.returncode == 0, done.stderr
    one, two = (load_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert len(one.history) == 20
    for a, b in zip(one.history, two.history, strict=True):
        assert (b.step, b.symbols) == (a.step, a.symbols)
        assert b.training == pytest.approx(a.training, rel=1e-5)
        assert b.validation == pytest.approx(a.validation, rel=1e-5)


def test_a_batch_that_cannot_be_shared_out_is_refused(corpus: Path, tmp_path: Path) -> None:
    done = torchrun(2, *arguments(corpus, "--out", tmp_path / "run", "--set", "batch=7")[1:])
    assert done.returncode != 0
    assert "batch is 7; it must be a multiple of the 2 processes" in done.stderr


THREADS_AT_THE_END = """
import atexit, os, pathlib, runpy

def note():
    names = sorted(path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm"))
    pathlib.Path(os.environ["NOTED"], os.environ["RANK"]).write_text(" ".join(names))

atexit.register(note)
runpy.run_module("segue_training", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are told by Linux's /proc")
@pytest.mark.parametrize(
    ("settings", "said"),
    [(["steps=4"], "step 4"), (["learning_rate=100", "weight_decay=10"], "set a learning_rate below 100")],
    ids=["finished", "failed"],
)
def test_no_thread_of_a_group_outlives_it(
    settings: list[str], said: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that frees a tensor while Python shuts down aborts a finished process.

    If a process fails, torchrun stops the others.
    """
    script, noted = tmp_path / "script.py", tmp_path / "noted"
    script.write_text(THREADS_AT_THE_END)
    noted.mkdir()
    monkeypatch.setenv("NOTED", str(noted))
    plain = [f"--set={setting}" for setting in ["evaluations=2", *settings]]
    done = torchrun(2, script, *arguments(corpus, "--out", tmp_path / "run", *plain)[3:])
    assert said in done.stderr
    threads = [path.read_text() for path in noted.iterdir()]
    assert threads
    assert not any("gloo" in names for names in threads)


A_GROUP_THAT_FAILS = """
import sys
import torch
from segue_training.train.distributed import join_process_group

def fail(group):
    model = group.share(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    for _ in range(4):
        torch.distributed.all_reduce(torch.ones(1), async_op=True)
    raise ArithmeticError

sys.setswitchinterval(60)  # seconds that this thread keeps the interpreter, unless it waits without it
try:
    with join_process_group("cpu") as group:
        fail(group)
except ArithmeticError:
    pass
"""


def test_a_group_that_fails_lets_its_threads_free_their_tensors(tmp_path: Path) -> None:
    """A thread needs the interpreter for that, and the error still refers to the shared model."""
    script = tmp_path / "script.py"
    script.write_text(A_GROUP_THAT_FAILS)
    done = torchrun(2, script)
    assert done.returncode == 0, done.stderr


def test_of_two_trainings_into_one_folder_one_succeeds_and_the_other_names_it(corpus: Path, tmp_path: Path) -> None:
    command = arguments(corpus, "--out", tmp_path / "run", "--set", "steps=400")  # longer than the other takes to start
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate()[1], process.returncode, process.pid) for process in processes]
    (_, _, winner), (errors, _, _) = sorted(ends, key=lambda end: end[1])
    assert [status for _, status, _ in sorted(ends, key=lambda end: end[1])] == [0, 1]
    assert f"{tmp_path / 'run'} is in use by process {winner} on " in errors.splitlines()[-1]
    assert load_checkpoint(tmp_path / "run").taken == 400


def test_a_run_in_training_is_read_but_neither_replaced_nor_resumed(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with training(corpus, folder, "--set", "steps=100000") as process:
        wait_for_step(process, folder, 3)
        for refused in (
            resume(folder),
            CliRunner().invoke(segue, ["train", str(corpus), "--out", str(folder), "--force"]),
        ):
            assert refused.exit_code == 1
            assert f"{folder} is in use by process {process.pid} on " in refused.stderr
        seen = [load_run(folder).checkpoint.taken for _ in range(50)]  # it saves after every step
        assert seen == sorted(seen)
        assert seen[-1] > seen[0]
        exported = CliRunner().invoke(segue, ["export", str(folder), "--models", str(tmp_path / "models"), "--json"])
        assert exported.exit_code == 0, exported.output
        assert json.loads(exported.stdout)["run"]["taken"] >= seen[-1]
        assert "; the run at step " in exported.stderr
        assert process.poll() is None
        process.kill()
        process.wait()
    killed = CliRunner().invoke(segue, ["evaluate", str(folder), str(corpus), "--json"])
    assert killed.exit_code == 0, killed.output
    assert resume(folder, "--set", f"steps={read_train_state(folder)[1].progression.step + 2}").exit_code == 0


@pytest.mark.parametrize("processes", [2])
def test_a_group_of_processes_locks_its_folder_once(corpus: Path, tmp_path: Path, processes: int) -> None:
    folder = tmp_path / "run"
    done = torchrun(processes, *arguments(corpus, "--out", folder, "--set", "steps=6", "--set", "evaluations=2")[1:])
    assert done.returncode == 0, done.stderr
    with locked(folder):
        refused = torchrun(processes, "-m", "segue_training", "--resume", folder, "--steps", "+4", *PLAIN)
    assert refused.returncode != 0
    assert f"segue: {folder} is in use by process {os.getpid()}" in refused.stderr
    done = torchrun(processes, "-m", "segue_training", "--resume", folder, "--steps", "+4", *PLAIN)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(folder).taken == 10
