"""Lines that cannot be read: they end the training, or are left out, counted, and the first is named."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from segue_client.commands.main import segue
from segue_training.train.checkpoint import load_checkpoint
from segue_training.train.train_state import read_record

SHAPE = ["--recipe=small", "--threads=1", "--no-report", "--set=batch=4", "--set=time=8", "--set=hidden=8"]
GOOD = [b'{"text": "the cat sat on the mat"}'] * 40
BAD = {
    "null": (b'{"text": null}', "field 'text' is null, not a string"),
    "missing": (b'{"title": "x"}', "the record has no field 'text'"),
    "number": (b'{"text": 7}', "field 'text' is 7, not a string"),
    "no object": (b'["text"]', "the record is not a JSON object"),
    "broken": (b'{"text": "the c', "not JSON"),
    "surrogate": (b'{"text": "\\ud83d"}', "holds the lone surrogate"),
    "not UTF-8": (b'{"text": "caf\xe9 au lait"}', "is not UTF-8: byte 0xe9 at position"),
}


def train(*arguments: object) -> Result:
    return CliRunner().invoke(segue, ["train", *map(str, arguments)])


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_a_bad_record_ends_the_command_or_is_left_out(tmp_path: Path, line: bytes, message: str) -> None:
    dump, clean = tmp_path / "dump.jsonl", tmp_path / "clean.jsonl"
    dump.write_bytes(b"\n".join([*GOOD[:20], line, *GOOD[20:], line]) + b"\n")
    clean.write_bytes(b"\n".join(GOOD) + b"\n")
    options = ["--field", "text", "--set=steps=4", *SHAPE]
    refused = train(dump, "--out", tmp_path / "run", *options)
    assert refused.exit_code == 2
    (error,) = refused.stderr.splitlines()
    assert f"{dump}, line 21" in error
    assert message in error
    assert error.endswith("; --bad-rows skip leaves such lines out")
    done = train(dump, "--out", tmp_path / "run", "--bad-rows", "skip", "--json", *options)
    assert done.exit_code == 0, done.output
    (told,) = [each for each in done.stderr.splitlines() if each.startswith("left out: ")]
    assert told.startswith(f"left out: 2 lines that cannot be read; the first: {dump}, line 21")
    listed = json.loads((tmp_path / "run" / "corpus.json").read_text())
    for report in (json.loads(done.stdout), listed):
        assert report["bad_rows"] == 2
        assert message in report["first_bad_row"]
    assert train(clean, "--out", tmp_path / "clean", *options).exit_code == 0
    with_rest, without = (load_checkpoint(tmp_path / name) for name in ("run", "clean"))
    assert with_rest.corpus.sha256 == without.corpus.sha256


def test_a_resumed_run_leaves_out_the_same_lines(tmp_path: Path) -> None:
    dump = tmp_path / "dump.jsonl"
    dump.write_bytes(b"\n".join([*GOOD, b'{"text": null}']))
    run = tmp_path / "run"
    assert train(dump, "--out", run, "--field=text", "--bad-rows=skip", "--set=steps=4", *SHAPE).exit_code == 0
    again = train("--resume", run, "--steps", "+2", "--threads=1", "--no-report")
    assert again.exit_code == 0, again.output
    assert "left out: 1 lines" in again.stderr
    record = read_record(run)
    assert record is not None
    assert record[0].bad_rows == "skip"


def test_a_document_that_is_not_utf_8_is_left_out(tmp_path: Path) -> None:
    text = tmp_path / "names.txt"
    text.write_bytes(b"ada\nbob\ncarol\n" * 60 + b"jos\xe9\n" + b"dave\n" * 60)
    options = ["--documents=lines", "--out", tmp_path / "run", "--set=steps=4", *SHAPE]
    refused = train(text, *options)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert refused.stderr.endswith("; --bad-rows skip leaves such lines out\n")
    done = train(text, "--bad-rows=skip", *options)
    assert done.exit_code == 0, done.output
    assert f"left out: 1 lines that cannot be read; the first: {text}, line 181 is not UTF-8" in done.stderr
    assert "j" not in load_checkpoint(tmp_path / "run").vocabulary.characters


def test_a_text_without_lines_has_none_to_leave_out(tmp_path: Path) -> None:
    (tmp_path / "cats.txt").write_text("the cat sat on the mat\n" * 40)
    refused = train(tmp_path / "cats.txt", "--bad-rows=skip", "--out", tmp_path / "run", *SHAPE)
    assert refused.exit_code == 2
    assert "--bad-rows skip leaves lines out: give --field" in refused.stderr
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n" * 40)
    assert "--bad-rows" not in train(tmp_path / "latin.txt", "--out", tmp_path / "run", *SHAPE).stderr
