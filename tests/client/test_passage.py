"""The passage that the demo scores."""

from pathlib import Path

import pytest
from charlm_client.passage import natural_passage, prompt_for, scrambled


def test_a_file_gives_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("anfang " * 100 + "und dann kam das ende\n", encoding="utf-8")
    passage = natural_passage(str(tmp_path / "a.txt"))
    assert passage.startswith("anfang ")
    assert passage.endswith("und dann kam das ende")
    assert 380 < len(passage) <= 400
    assert natural_passage(str(tmp_path)) == passage
    assert prompt_for(str(tmp_path)) == "anfang"


def test_a_text_without_spaces_is_a_passage_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("漢字" * 500, encoding="utf-8")
    passage = natural_passage(str(tmp_path / "a.txt"))
    assert passage == "漢字" * 200
    assert prompt_for(str(tmp_path / "a.txt")) == "漢字" * 6


@pytest.mark.parametrize("corpus", ["pydoc", "time-machine", "-"])
def test_named_corpora_give_english(corpus: str) -> None:
    passage = natural_passage(corpus)
    assert 300 < len(passage) <= 420
    assert " the " in passage
    assert prompt_for(corpus) == "The "


def test_scrambling_keeps_the_characters() -> None:
    passage = natural_passage("-")
    assert sorted(scrambled(passage)) == sorted(passage)
    assert scrambled(passage) != passage
    assert scrambled(passage) == scrambled(passage)
