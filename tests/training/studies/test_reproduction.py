import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from segue_client.commands.main import segue
from segue_training.errors import ConfigurationError
from segue_training.studies.reproduction import progress as progress_module
from segue_training.studies.reproduction.chapters import configuration
from segue_training.studies.reproduction.rows import ROWS, rows_named

SHORT = ["--steps", "8", "--threads", "1", "--only", "MLP", "--only", "RNN"]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("the time traveller for so it will be convenient to speak of him " * 60)
    return path


def reproduce(*arguments: object) -> Result:
    return CliRunner().invoke(segue, ["reproduce", *map(str, arguments)])


@pytest.mark.parametrize(
    ("written", "name"), [("LSTM", "lstm"), ("LSTM from scratch", "lstm-scratch"), ("deep LSTM", "deep-lstm")]
)
def test_a_row_is_known_by_every_name_that_a_table_gives_it(written: str, name: str) -> None:
    assert [row.name for row in rows_named((written,))] == [name]


def test_a_row_that_is_unknown_is_refused_before_torch_is_loaded() -> None:
    code = """if True:
        import sys
        sys.modules["torch"] = None  # an attempt to import it fails
        from segue_client.commands.main import main
        main()"""
    done = subprocess.run(
        [sys.executable, "-c", code, "reproduce", "--only", "LTSM"], capture_output=True, text=True, check=False
    )
    assert done.returncode == ConfigurationError.exit_code
    assert "'LTSM'; did you mean lstm? (rows: mlp, rnn-scratch" in done.stderr
    assert all(row.name in done.stderr for row in ROWS)


def test_each_model_and_its_steps_are_shown(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "QUIET", 0.0)
    done = reproduce("--corpus", book, *SHORT)
    assert done.exit_code == 0, done.output
    assert "mlp (model 1 of 2): step 1 of 8, perplexity" in done.stderr
    assert "rnn (model 2 of 2): step 8 of 8, perplexity" in done.stderr


def test_figures_of_another_length_or_text_are_not_put_beside_the_published_ones(book: Path) -> None:
    shown = reproduce("--corpus", book, *SHORT).stdout
    assert "1.3*" in shown
    assert f"not comparable: published after 4,000 steps on d2l's text; these are 8 on {book}" in shown
    rows = json.loads(reproduce("--corpus", book, *SHORT, "--json").stdout)["rows"]
    assert [(row["steps"], row["is_comparable"]) for row in rows] == [(8, False)] * 2


def test_a_row_is_its_recipe_as_the_chapters_cut_the_text() -> None:
    (row,) = rows_named(("rnn-scratch-random",))
    config = configuration(row, seed=3)
    assert (config.partition, config.seed, config.steps, config.hidden) == ("random", 3, 4000, 512)
