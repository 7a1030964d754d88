"""What `segue train`, `export` and `evaluate` say of a wrong command, and that the remedy works."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from segue_client.commands.main import segue
from segue_training.output_folder import locked

SMALL = "--recipe small --threads 1 --no-report --set batch=4 --set time=8 --set hidden=8 --set evaluations=2"
TRAIN = f"train cats.txt --out new --set steps=2 {SMALL}"
AGAIN = "--threads 1 --no-report"

CASES = [
    (
        "train",
        "CORPUS is missing: try segue train pydoc, or segue train --resume RUN",
        f"train --resume run --steps +1 {AGAIN}",
    ),
    ("train cat.txt", "no file and no corpus is called 'cat.txt' (corpora: pydoc, ", TRAIN),
    ("train shakespear", "; did you mean shakespeare?", ""),
    ("train cats.txt --recipe smal", "; did you mean small?", TRAIN),
    (f"{TRAIN} --set hiden=8", "hiden", TRAIN),
    (f"{TRAIN} --set hidden=0", "hidden is 0; it must be from 1", TRAIN),
    (
        f"{TRAIN} --set precision=bfloat16",
        "set precision=float32 or implementation=scratch",
        f"{TRAIN} --set precision=float32",
    ),
    (
        f"{TRAIN} --set precision=bfloat16",
        "set precision=float32 or implementation=scratch",
        f"{TRAIN} --set implementation=scratch",
    ),
    (
        f"{TRAIN} --step 3",
        "--step selects a saved step: give it with --resume RUN",
        f"train --resume run --step 4 --steps +1 {AGAIN}",
    ),
    (
        f"{TRAIN} --steps +3",
        "--steps +3 adds to a run's steps: give it with --resume RUN",
        f"train --resume run --steps +3 {AGAIN}",
    ),
    (
        f"{TRAIN} --allow-unknown 5",
        "--allow-unknown is about the vocabulary of a run: give it with --from RUN",
        f"train dogs.txt --from run --out new --allow-unknown 90 --set steps=2 {AGAIN}",
    ),
    (
        f"train cats.txt --out run --set steps=2 {SMALL}",
        "run holds a checkpoint: give --force to replace it, or another --out",
        f"train cats.txt --out run --force --set steps=2 {SMALL}",
    ),
    (
        f"train cats.txt --out run --set steps=2 {SMALL}",
        "(to train it further: segue train --resume run --steps +N)",
        f"train --resume run --steps +2 {AGAIN}",
    ),
    (
        f"train --resume run {AGAIN}",
        "run has taken all its 4 steps: add --steps +4 to train it as long again",
        f"train --resume run --steps +4 {AGAIN}",
    ),
    (
        f"train --resume run --steps 2 {AGAIN}",
        "steps is 2, and the run has taken 4: set more",
        f"train --resume run --steps 5 {AGAIN}",
    ),
    (
        f"train --resume run --recipe small {AGAIN}",
        "--recipe is for a new run: leave it out to resume run",
        f"train --resume run --steps +1 {AGAIN}",
    ),
    (
        f"train --resume bare --steps +1 {AGAIN}",
        "segue train TEXT --from bare begins a new run with its weights",
        f"train cats.txt --from bare --out new --set steps=2 {AGAIN}",
    ),
    (
        f"train cats.txt --from run --out run {AGAIN}",
        "run is the run that --from names: give another --out",
        f"train cats.txt --from run --out new --set steps=2 {AGAIN}",
    ),
    (
        f"train cats.txt --from run --out new --set hidden=16 {AGAIN}",
        "leave it out, or train a new model without --from",
        f"train cats.txt --from run --out new --set steps=2 {AGAIN}",
    ),
    (
        f"train dogs.txt --from run --out new {AGAIN}",
        "--allow-unknown",
        f"train dogs.txt --from run --out new --allow-unknown 90 --set steps=2 {AGAIN}",
    ),
    (
        f"train cats.txt --out new --documents lines --set normalization=letters {SMALL}",
        "set normalization=line-feeds or documents=none",
        f"{TRAIN} --documents lines --set normalization=line-feeds",
    ),
    (
        f"train 'texts/**/*.md' --out new {SMALL}",
        "no file matches 'texts/**/*.md'",
        f"train 'texts/*.txt' --out new --set steps=2 {SMALL}",
    ),
    ("export nothing --models models", "nothing", "export run --models models"),
    ("export cats.txt --models models", "cats.txt", "export run --models models"),
    ("export run --models models --name Cats", "cats", "export run --models models --name cats"),
    ("export run --models models --weights latest --quantize int9", "int9", "export run --models models"),
    ("evaluate run run", "run is a model, not a text", "evaluate run cats.txt"),
    ("evaluate nothing cats.txt", "nothing", "evaluate run cats.txt"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two texts, a finished run, and one without its train state."""
    monkeypatch.chdir(tmp_path)
    Path("cats.txt").write_text("the cat sat on the mat\n" * 40)
    Path("dogs.txt").write_text("DIE HUNDE BELLEN\n" * 40)
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("the cat sat on the mat\n" * 40)
    for name, option in (("run", ""), ("bare", "--no-keep-state")):
        trained = run(f"train cats.txt --out {name} --set steps=4 {SMALL} {option}")
        assert trained.exit_code == 0, trained.output
    return tmp_path


def run(command: str) -> Result:
    return CliRunner().invoke(segue, [word.strip("'") for word in command.split()])


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("command", "message", "remedy"), CASES)
def test_a_wrong_command_is_answered_in_a_line_and_its_remedy_works(command: str, message: str, remedy: str) -> None:
    refused = run(command)
    assert refused.exit_code in {1, 2}, refused.output
    *_, last = refused.stderr.strip().splitlines()
    assert re.match("Error: ", last), refused.stderr
    assert message in last
    if remedy:
        mended = run(remedy)
        assert mended.exit_code == 0, mended.output


@pytest.mark.usefixtures("place")
def test_a_run_that_has_only_begun_is_said_to_have_saved_nothing() -> None:
    Path("begun").mkdir()
    with locked(Path("begun")):
        for command in ("export begun --models models", "evaluate begun cats.txt"):
            refused = run(command)
            assert refused.exit_code == 1
            assert refused.stderr.startswith("Error: begun has saved nothing yet: it saves every minute")


@pytest.mark.usefixtures("place")
def test_quantization_without_a_text_names_the_runs_own() -> None:
    refused = run("export run --models models --quantize int8")
    assert refused.exit_code == 2
    said = re.search(r"such as the run's own, with (--text \S+)$", refused.stderr.strip())
    assert said, refused.stderr
    mended = run(f"export run --models models --quantize int8 --allow-worse 100 {said[1]}")
    assert mended.exit_code == 0, mended.output


@pytest.mark.usefixtures("place")
def test_a_version_of_another_kind_than_the_one_before_is_announced() -> None:
    assert run(f"train cats.txt --out other --set steps=2 {SMALL} --set architecture=gru").exit_code == 0
    first = run("export run --models models --name cats")
    again = run("export run --models models --name cats")
    other = run("export other --models models --name cats")
    assert [result.exit_code for result in (first, again, other)] == [0, 0, 0]
    assert "keeps them apart" not in first.stderr + again.stderr
    assert re.search(
        r"^cats/2 is an lstm trained on cats .*, and this is a gru .*: --name NAME", other.stderr, re.MULTILINE
    )


@pytest.mark.usefixtures("place")
def test_a_run_that_ends_worse_than_chance_says_so() -> None:
    worse = run(f"{TRAIN} --set learning_rate=100 --set warmup=0 --set clip=100")
    assert worse.exit_code == 0, worse.output
    assert "worse than guessing every character alike: set a smaller learning_rate" in worse.stdout
    assert "worse than guessing" not in run(f"train --resume run --steps +20 {AGAIN}").stdout
