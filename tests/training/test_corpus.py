import hashlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from charlm_training.corpus import Corpus, load_corpus
from charlm_training.errors import CorpusError
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(max_size=50))
def test_the_parts_of_a_corpus_make_the_whole(text: str) -> None:
    corpus = Corpus("any", text)
    assert corpus.training_text + corpus.validation_text == text
    assert len(corpus.validation_text) * 10 - len(text) in range(10)


def test_the_reference_text_of_python_needs_no_network() -> None:
    corpus = load_corpus("pydoc")
    assert corpus.name == "pydoc"
    assert 300_000 < len(corpus.text) < 1_000_000
    assert "lambda" in corpus.text
    assert load_corpus("pydoc").sha256 == corpus.sha256


def test_a_file_is_normalized_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a tale.txt"
    path.write_bytes("\ufeffcaf\u00e9\r\nb\r".encode())
    corpus = load_corpus(str(path))
    assert (corpus.name, corpus.text) == ("a tale", "café\nb\n")
    assert corpus.sha256 == hashlib.sha256("café\nb\n".encode()).hexdigest()


def test_a_folder_is_its_text_files_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "tales"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbfB\r\n")
    (folder / "a.txt").write_bytes(b"A")
    (folder / "deep" / "c.txt").write_bytes(b"\xef\xbb\xbfC")
    (folder / "d.md").write_bytes(b"D")
    assert load_corpus(str(folder)) == Corpus("tales", "AB\nC")


def test_standard_input_is_a_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a\r\nb")))
    assert load_corpus("-") == Corpus("stdin", "a\nb")


def test_a_name_wins_over_a_file_unless_the_path_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pydoc").write_text("mine", encoding="utf-8")
    assert load_corpus("pydoc").text != "mine"
    assert load_corpus("./pydoc").text == "mine"


def test_an_unknown_corpus_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        CorpusError, match=r"'shakespear'; did you mean shakespeare\? \(corpora: pydoc, time-machine, shake"
    ):
        load_corpus("shakespear")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds no \*\.txt file"):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_text_that_is_not_utf_8_is_named_with_its_byte(tmp_path: Path, in_folder: bool) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("ni\u00f1o".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"latin\.txt is not UTF-8: byte 0xf1 at position 2; convert"):
        load_corpus(str(tmp_path if in_folder else path))
