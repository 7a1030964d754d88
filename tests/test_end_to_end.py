"""The whole path as a user walks it: train, evaluate, export, serve, generate, score; from a folder of their own."""

import codecs
import json
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = "the cat, which already ate a bunch of food, was full.\nthe cats were full too.\n"
QUICK = [
    "steps=150",
    "warmup=10",
    "hidden=48",
    "embedding=16",
    "batch=8",
    "time=32",
    "evaluations=2",
    "learning_rate=0.02",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a checkpoint trained on it and an artifact."""
    home = tmp_path_factory.mktemp("home")
    (home / "cats.txt").write_text(TEXT * 60)
    settings = [argument for setting in QUICK for argument in ("--set", setting)]
    segue(home, "train", "cats.txt", "--threads", "1", *settings)
    segue(home, "export", "runs/cats")
    return home


def segue(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "segue_client", *arguments]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_left_a_checkpoint_and_export_an_artifact(home: Path) -> None:
    assert (home / "runs/cats/checkpoint.json").exists()
    assert {path.name for path in (home / "models/cats/1").iterdir()} == {"model.onnx", "manifest.json"}


def test_the_served_model_scores_as_the_checkpoint_does_and_writes_what_it_learned(home: Path, start_server) -> None:
    (home / "new.txt").write_text(TEXT * 2)
    evaluated = json.loads(segue(home, "evaluate", "runs/cats", "new.txt", "--json"))
    with start_server(models=home / "models") as server:
        at = ("--server", server.address)
        scored = json.loads(segue(home, "score", "new.txt", "--json", *at))
        assert scored["perplexity"] == pytest.approx(evaluated["perplexity"], rel=1e-5)
        assert scored["perplexity"] < 2
        written = segue(home, "generate", "the cat", "--temperature", "0", "--max-characters", "100", *at)
        assert written.startswith("the cat")
        assert {word.strip(".,") for word in written.split()[:-1]} <= set(
            TEXT.replace(",", "").replace(".", "").split()
        )
        parts = ("--seed", "5", "--max-characters", "20", *at)
        whole = segue(home, "generate", "the", "--seed", "5", "--max-characters", "40", *at)
        first = segue(home, "generate", "the", "--ticket-out", "ticket", *parts)
        rest = segue(home, "generate", "--ticket-in", "ticket", "--max-characters", "20", *at)
        assert first + rest == whole
        assert "cats/1" in segue(home, "models", *at)


MIXED = "Zoë aß 猫 und trank καφέ; 𝄞 𝄢!\nBjörn’s 犬 slept — naïve, über alles.\n"  # noqa: RUF001


@pytest.fixture(scope="module")
def mixed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts that begin with a byte order mark and end lines with CR alone, and models of them."""
    home = tmp_path_factory.mktemp("mixed")
    (home / "mixed.txt").write_bytes(codecs.BOM_UTF8 + (MIXED * 60).replace("\n", "\r").encode())
    settings = [argument for setting in QUICK for argument in ("--set", setting)]
    for name, options in (("characters", ()), ("bytes", ("--alphabet", "bytes")), ("lines", ("--documents", "lines"))):
        segue(home, "train", "mixed.txt", "--out", name, "--threads", "1", "--no-report", *settings, *options)
        segue(home, "export", name, "--name", name)
    return home


def test_a_text_with_a_mark_and_cr_line_ends_and_all_scripts_goes_the_whole_way(mixed_home: Path, start_server) -> None:
    """Evaluated, served and scored alike, as characters and as bytes; and what is written is what was learned."""
    (mixed_home / "new.txt").write_bytes(codecs.BOM_UTF8 + MIXED.replace("\n", "\r\n").encode())
    with start_server(models=mixed_home / "models") as server:
        for model in ("characters", "bytes"):
            at = ("--server", server.address, "--model", model)
            evaluated = json.loads(segue(mixed_home, "evaluate", model, "new.txt", "--json"))
            scored = json.loads(segue(mixed_home, "score", "new.txt", "--json", *at))
            assert (evaluated["unknown"], scored["unknown_count"]) == (0, 0)
            assert scored["perplexity"] == pytest.approx(evaluated["perplexity"], rel=1e-5)
            written = segue(mixed_home, "generate", "Zoë", "--max-characters", "200", "--seed", "3", *at)
            assert written.startswith("Zoë")
            assert "\ufffd" not in written
            assert set(written) <= set(MIXED)
            learned = segue(mixed_home, "generate", "Zoë", "--max-characters", "60", "--temperature", "0", *at)
            assert set(learned.split()[:-1]) <= set(MIXED.split())
        at = ("--server", server.address, "--model", "lines")
        line = segue(mixed_home, "generate", "Bj", "--temperature", "0", *at)
        assert line.startswith("Bj")
        assert line.index("\n") == len(line) - 1
