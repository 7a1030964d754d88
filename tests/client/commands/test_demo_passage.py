"""The passages that the demo scores."""

import os
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from segue_client.commands.demo_passage import ENGLISH, natural_passage, prompt_for, shuffled


def test_a_file_gives_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("anfang " * 100 + "und dann kam das ende\n", encoding="utf-8")
    passage = natural_passage(str(tmp_path / "a.txt"))
    assert passage.startswith("anfang ")
    assert passage.endswith("und dann kam das ende")
    assert 380 < len(passage) <= 400
    assert natural_passage(str(tmp_path)) == passage
    assert prompt_for(str(tmp_path), passage) == "anfang"


@pytest.mark.parametrize("pattern", ["*.txt", "**/*.txt", "?.txt"])
def test_a_pattern_gives_the_end_of_its_last_file(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_bytes(b"two\r\nthree")
    (tmp_path / "c.log").write_text("four")
    assert natural_passage(str(tmp_path / pattern)) == "two\nthree"


def test_only_the_end_of_a_large_file_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(2**40)
        file.seek(0, os.SEEK_END)
        file.write("é".encode() * 20_000)
    assert natural_passage(str(tmp_path / "a.txt")) == "é" * 400


def test_a_pipe_is_left_to_training(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert natural_passage(str(tmp_path / "pipe")) == ENGLISH


def test_a_text_without_spaces_is_a_passage_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("漢字" * 500, encoding="utf-8")
    passage = natural_passage(str(tmp_path / "a.txt"))
    assert passage == "漢字" * 200
    assert prompt_for(str(tmp_path / "a.txt"), passage) == "漢字" * 6


@pytest.mark.parametrize("corpus", ["pydoc", "time-machine", "-", "absent.txt", "*.txt", "."])
def test_what_names_no_file_gives_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str) -> None:
    monkeypatch.chdir(tmp_path)
    passage = natural_passage(corpus)
    assert 300 < len(passage) <= 420
    assert " the " in passage
    assert prompt_for(corpus, passage) == "The "


def test_the_built_in_corpus_gives_its_last_topic() -> None:
    passage = natural_passage("pydoc")
    assert topics[max(topics)].rstrip().endswith(passage)
    assert passage != ENGLISH


def test_shuffling_keeps_the_characters() -> None:
    passage = ENGLISH
    assert sorted(shuffled(passage)) == sorted(passage)
    assert shuffled(passage) != passage
    assert shuffled(passage) == shuffled(passage)
