import codecs
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from segue_client.commands.main import segue
from segue_training.data.corpus import NAMED_CORPORA
from segue_training.recipes import RECIPES, recipe
from segue_training.train.checkpoint import load_checkpoint
from segue_training.train.trainer import new_model

SMALLER = ["--set", "batch=8", "--set", "time=16", "--set", "hidden=32", "--set", "evaluations=3"]
FAST = ["--recipe", "small", "--threads", "1", *SMALLER]


def run_train(*arguments: object) -> Result:
    return CliRunner().invoke(segue, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained model and its corpus cats.txt."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "cats.txt").write_text("the cat sat on the mat\n" * 300, encoding="utf-8")
    result = run_train(folder / "cats.txt", "--out", folder / "run", *FAST, "--seed", 5, "--json")
    assert result.exit_code == 0, result.output
    (folder / "summary.json").write_text(result.stdout)
    return folder


def test_training_leaves_a_checkpoint_far_better_than_uniform(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    checkpoint = load_checkpoint(folder / "run")
    assert len(checkpoint.vocabulary) == 12
    assert checkpoint.validation.fresh.perplexity < 1.2
    assert checkpoint.validation.carried.nats <= checkpoint.validation.fresh.nats
    assert summary["validation"]["fresh"]["perplexity"] == checkpoint.validation.fresh.perplexity
    assert (checkpoint.training.seed, checkpoint.training.hidden, checkpoint.recipe) == (5, 32, "small")
    assert (checkpoint.corpus.name, checkpoint.corpus.characters, checkpoint.begin) == ("cats", 6900, "\n")


def test_a_person_sees_a_sample_and_the_figures(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_train(folder / "cats.txt", *FAST)
    assert result.exit_code == 0, result.output
    assert "the cat sat on the mat" in result.stdout
    assert "carried state" in result.stdout
    assert load_checkpoint(Path("runs/cats")).corpus.name == "cats"
    assert "\x1b" not in result.output


def test_a_checkpoint_is_replaced_only_by_force(folder: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path), *FAST, "--set", "steps=2"]
    assert run_train(folder / "cats.txt", *out).exit_code == 0
    result = run_train(folder / "cats.txt", *out)
    assert result.exit_code == 2
    assert "holds a checkpoint: give --force to replace it, or another --out" in result.stderr
    assert run_train(folder / "cats.txt", *out, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no-such-corpus"], 2, "no file and no corpus is called 'no-such-corpus' (corpora: pydoc, "),
        (["pydoc", "--recipe", "slow"], 2, "no recipe is called 'slow'"),
        (["pydoc", "--set", "hidden=0"], 2, "hidden is 0; it must be from 1"),
        (["{empty}", "--out", "{new}"], 2, "the training text has 0 symbols; this recipe needs "),
        (["{binary}", "--out", "{new}"], 2, "not UTF-8: byte 0xff at position 3"),
        (["{text}", "--out", "{text}/sub", *FAST], 2, "/sub: Not a directory; give another --out"),
        (
            ["{text}", "--out", "{new}", *FAST, "--set", "learning_rate=100", "--set", "weight_decay=10"],
            1,
            "set a learning_rate below 100.0",
        ),
    ],
)
def test_an_error_is_one_line_with_its_exit_code_and_leaves_nothing(
    tmp_path: Path, text_file: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"abc\xff")
    names = {name: tmp_path / f"{name}.txt" for name in ("empty", "binary")}
    before = sorted(tmp_path.iterdir())
    filled = [argument.format(**names, text=text_file, new=tmp_path / "new") for argument in arguments]
    result = run_train(*filled)
    assert result.exit_code == code, result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert message in last
    assert sorted(tmp_path.iterdir()) == before


def test_without_torch_the_commands_say_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; from segue_client.commands.main import main; main()"
    result = subprocess.run([sys.executable, "-c", code, "train", "pydoc"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "Error: segue train needs torch: in segue's checkout, pip install '.[train]'\n"


def test_a_run_interrupted_while_it_reads_ends_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    command = "from segue_client.commands.main import main; main()"
    arguments = ["train", "-", "--out", str(tmp_path / "new"), *FAST]
    with subprocess.Popen(
        [sys.executable, "-c", command, *arguments], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (tmp_path / "new").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        _, errors = process.communicate()
    assert errors == ""
    assert not (tmp_path / "new").exists()


def test_a_wrong_recipe_lists_every_one_and_a_wrong_corpus_too() -> None:
    assert all(name in run_train("pydoc", "--recipe", "?").stderr for name in RECIPES)
    assert all(name in run_train("no-such").stderr for name in NAMED_CORPORA)


def test_every_recipe_can_be_built_and_called_by_its_name() -> None:
    for name, make in RECIPES.items():
        assert recipe(name) == make()
        assert new_model(30, make()).config.vocabulary_size == 30


def test_a_run_leaves_a_report_and_logs(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run_train(folder / "cats.txt", *FAST, "--set", "steps=12", "--out", out, "--tensorboard")
    assert result.exit_code == 0, result.output
    assert "</html>" in (out / "report.html").read_text(encoding="utf-8")
    assert list((out / "tensorboard").glob("events.*"))


def test_documents_and_bytes_are_options_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(codecs.BOM_UTF8 + "Zoë\rBjörn\rJosé\r".encode() * 60)
    for number, options in enumerate((["--documents", "lines"], ["--alphabet", "bytes"])):
        out = tmp_path / str(number)
        result = run_train(path, *FAST, "--set", "steps=60", "--out", out, *options, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["validation"]["fresh"]["unknown"] == 0
    documents, in_bytes = (load_checkpoint(tmp_path / str(number)) for number in range(2))
    assert (documents.documents, in_bytes.vocabulary.alphabet) == ("lines", "bytes")
    assert documents.validation.fresh.characters == 6 * 15  # of 60 times 15, with the end of each
    assert in_bytes.validation.fresh.characters == 6 * 15 - 1
    assert documents.validation.fresh.nats < in_bytes.validation.fresh.nats


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["cats.txt", "--step", 5], "--step selects a saved step: give it with --resume RUN"),
        (["--resume", "run", "--recipe", "best"], "--recipe is for a new run: leave it out to resume run"),
        (["--resume", "run", "--out", "other"], "--out is for a new run"),
        (["--resume", "run", "--field", "text"], "--field is for a new run"),
        (["--resume", "run", "--force"], "--force is for a new run"),
    ],
)
def test_no_option_is_left_unheeded(given: list[object], message: str) -> None:
    result = run_train(*given)
    assert result.exit_code == 2
    assert message in result.stderr
