"""The corpora of `segue train` in real processes: names in any encoding, closed streams, what was read."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from segue_training.train.checkpoint import load_checkpoint
from segue_training.train.train_state import train_state_files

SETTINGS = ["hidden=16", "embedding=8", "steps=20", "batch=4", "time=8", "evaluations=1"]
FAST = ["--recipe", "small", "--threads", "1", *(part for setting in SETTINGS for part in ("--set", setting))]

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Names are decoded as ASCII."""


def command(*arguments: object) -> list[bytes]:
    parts = [sys.executable, "-c", "from segue_client.commands.main import main; main()", *arguments]
    return [part if isinstance(part, bytes) else os.fsencode(str(part)) for part in parts]


def segue(*arguments: object, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, check=False, env={**os.environ, **environment}
    )


def words(seed: int = 7) -> str:
    return " ".join(random.Random(seed).choices(["the", "cat", "sat", "on", "a", "mat"], k=300))


@pytest.mark.parametrize(
    ("name", "environment"), [(b"bad\xff", {}), ("é".encode(), C_LOCALE)], ids=["bytes", "accent in C"]
)
def test_a_name_in_any_encoding_is_trained_on_and_used(
    tmp_path: Path, name: bytes, environment: dict[str, str]
) -> None:
    folder = tmp_path / os.fsdecode(b"folder " + name)
    folder.mkdir()
    (folder / os.fsdecode(name + b".txt")).write_text(6 * words())
    done = segue("train", folder.name, *FAST, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "report.html").exists()
    run = run.rename(tmp_path / os.fsdecode(b"run " + name))
    done = segue("evaluate", run, folder / os.fsdecode(name + b".txt"), "--json", cwd=tmp_path, **environment)
    assert (done.returncode, json.loads(done.stdout)["part"]) == (0, "validation"), done.stderr
    done = segue("export", run, "--models", b"models " + name, "--name", "m", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert b"in float16 on a GPU: perplexity" in done.stdout, "measured on the run's own text"


@pytest.mark.parametrize("name", [b"bad\xff.txt", "é.txt".encode()])
def test_a_stopped_run_finds_its_text_again_in_any_locale(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).write_text(words())
    arguments = ["train", name, "--out", "run", *FAST, "--no-report", "--save-every", 0, "--set", "steps=100000"]
    with subprocess.Popen(
        command(*arguments), cwd=tmp_path, stderr=subprocess.DEVNULL, env={**os.environ, **C_LOCALE}
    ) as process:
        while not train_state_files(tmp_path / "run"):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    (path,) = train_state_files(tmp_path / "run")[-1:]
    step = int(path.name.split("-")[1])
    done = segue("train", "--resume", "run", "--no-report", "--set", f"steps={step + 1}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / "run").steps == step + 1


def test_a_closed_standard_input_is_one_line(tmp_path: Path) -> None:
    script = ["sh", "-c", 'exec "$@" <&-', "sh", *command("train", "-", *FAST)]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "Error: standard input is closed: name a file instead of -, or redirect one with < FILE\n"


def test_closed_outputs_do_not_stop_the_work(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words())
    for arguments, closed in (
        (["train", "a.txt", "--out", "run", *FAST], ">&- 2>&-"),
        (["evaluate", "run", "a.txt"], ">&-"),
        (["export", "run", "--name", "m"], "2>&-"),
    ):
        script = ["sh", "-c", f'exec "$@" {closed}', "sh", *command(*arguments)]
        done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "run/report.html").read_text(encoding="utf-8").endswith("</html>")
    assert (tmp_path / "models/m/1/model.onnx").exists()


def test_training_says_what_it_read_before_it_trains(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / "a.txt").write_text(words(1))
    (folder / "b.txt").write_text(words(2))
    (folder / "c.TXT.gz").write_bytes(gzip.compress(words(1).replace(" ", "\r\n ").encode()))
    (folder / "copy.txt.gz").write_bytes(gzip.compress(words(2).encode()))
    (folder / ".ipynb_checkpoints/a-checkpoint.txt").write_text(words(1))
    done = segue("train", "d", "--out", "run", *FAST, "--no-report", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.decode().splitlines()
    characters = [len(words(1)), len(words(2)), len(words(1).replace(" ", "\n ")), len(words(2))]
    names = ["d/a.txt", "d/b.txt", "d/c.TXT.gz", "d/copy.txt.gz"]
    assert lines[0] == f"texts: 4 files, {sum(characters):,} characters"
    assert [line.split() for line in lines[1:5]] == [
        [f"{n:,}", name] for n, name in zip(characters, names, strict=True)
    ]
    assert lines[5] == "not read: 1 hidden (d/.ipynb_checkpoints)"
    assert lines[6] == "warning: d/copy.txt.gz holds the same text as d/b.txt"
    assert lines[8].startswith("step ")
    summary, document = json.loads(done.stdout), json.loads((tmp_path / "run/corpus.json").read_text())
    assert [text["name"] for text in summary["texts"]] == names
    assert summary["corpus"]["characters"] == sum(characters)
    assert {key: summary[key] for key in ("texts", "skipped", "bad_rows", "first_bad_row")} == document
