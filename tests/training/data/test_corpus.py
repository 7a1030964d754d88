import io
import os
import sys
from pathlib import Path
from threading import Thread

import pytest
from segue_training.data.corpus import Corpus, find_corpus
from segue_training.errors import CorpusError


def read(corpus: Corpus, *, lines: bool = False) -> str:
    return "".join(corpus.blocks(lines=lines))


@pytest.fixture
def tales(tmp_path: Path) -> Path:
    """Files with and without byte order marks and final line ends."""
    folder = tmp_path / "tales"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbfB\r\n")
    (folder / "a.txt").write_bytes(b"A\r")
    (folder / "c.txt").write_bytes(b"\nC")
    (folder / "deep" / "c.txt").write_bytes(b"\xef\xbb\xbfD")
    (folder / "d.md").write_bytes(b"not a text")
    (folder / "e.txt").mkdir()
    return folder


def test_the_reference_text_of_python_needs_no_network() -> None:
    corpus = find_corpus("pydoc")
    assert corpus.name == "pydoc"
    text = read(corpus)
    assert 300_000 < len(text) < 1_000_000
    assert "lambda" in text
    assert read(corpus) == text


def test_a_file_has_line_feeds_and_no_mark(tmp_path: Path) -> None:
    path = tmp_path / "a tale.txt"
    path.write_bytes("\ufeffcaf\u00e9\r\nb\r".encode())
    corpus = find_corpus(str(path))
    assert (corpus.name, read(corpus)) == ("a tale", "café\nb\n")


def test_a_folder_is_its_text_files_in_order(tales: Path) -> None:
    corpus = find_corpus(str(tales))
    assert (corpus.name, read(corpus)) == ("tales", "A\nB\n\nCD")


def test_no_line_runs_on_into_the_next_file(tales: Path) -> None:
    assert read(find_corpus(str(tales)), lines=True) == "A\n\nB\n\n\nC\nD\n"


@pytest.mark.parametrize(
    ("pattern", "name", "text"),
    [("**/c.txt", "tales", "\nCD"), ("deep/*", "deep", "D"), ("[ab].t?t", "tales", "A\nB\n")],
)
def test_a_glob_is_its_files_in_order(tales: Path, pattern: str, name: str, text: str) -> None:
    corpus = find_corpus(f"{tales}/{pattern}")
    assert (corpus.name, read(corpus)) == (name, text)


def test_a_file_may_be_called_like_a_glob(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("one", encoding="utf-8")
    assert read(find_corpus(f"{tmp_path}/a[1].txt")) == "one"


def test_a_folder_of_json_lines_is_their_field(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b'{"t": "B"}')
    (tmp_path / "a.jsonl").write_bytes(b'{"t": "A\\r\\n"}\n{"t": "A2"}\n')
    (tmp_path / "c.txt").write_bytes(b"C")
    assert read(find_corpus(str(tmp_path), "t")) == "A\n\nA2\nB\n"
    assert read(find_corpus(f"{tmp_path}/[b]*", "t")) == "B\n"


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\r\nb")))
    corpus = find_corpus("-")
    assert (corpus.name, read(corpus)) == ("stdin", "a\nb")
    with pytest.raises(CorpusError, match="standard input can be read only once: write it to a file"):
        read(corpus)


def test_a_pipe_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = Thread(target=path.write_bytes, args=(b"a\r\nb",))
    writer.start()
    assert read(find_corpus(str(path))) == "a\nb"
    writer.join()


def test_a_name_wins_over_a_file_unless_the_path_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pydoc").write_text("mine", encoding="utf-8")
    assert read(find_corpus("pydoc")) != "mine"
    assert read(find_corpus("./pydoc")) == "mine"


def test_an_unknown_corpus_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        CorpusError, match=r"'shakespear'; did you mean shakespeare\? \(corpora: pydoc, time-machine, shake"
    ):
        find_corpus("shakespear")


@pytest.mark.parametrize(
    ("source", "field", "message"),
    [
        ("", None, r"the folder .* holds no \*\.txt file"),
        ("", "t", r"the folder .* holds no \*\.jsonl file"),
        ("*.log", None, r"no file matches '.*\*\.log'"),
        ("x" * 300, None, "cannot read .*: File name too long"),
    ],
)
def test_what_holds_no_text_is_named(tmp_path: Path, source: str, field: str | None, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        find_corpus(f"{tmp_path}/{source}", field)


def test_a_file_that_has_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.touch()
    corpus = find_corpus(str(path))
    path.unlink()
    with pytest.raises(CorpusError, match=r"cannot read .*/a\.txt: No such file"):
        read(corpus)


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_text_that_is_not_utf_8_is_named_with_its_byte(tmp_path: Path, in_folder: bool) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("ni\u00f1o".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"/latin\.txt is not UTF-8: byte 0xf1 at position 2; convert"):
        read(find_corpus(str(tmp_path if in_folder else path)))
