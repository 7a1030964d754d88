"""Files in other encodings: refused, with a command that converts them."""

import gzip
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.data.corpus import find_corpus
from segue_training.errors import CorpusError
from segue_training.text.encodings import check_is_text

WESTERN = "Der Zug fährt über die Brücke; l'été arrive à Besançon.\n" * 9
RUSSIAN = "Мой дядя самых честных правил, когда не в шутку занемог.\n" * 9
CHINESE = "道可道,非常道。名可名,非常名。\n" * 9

CASES = [
    (WESTERN, "latin-1", "latin1"),
    (WESTERN, "utf-16", "utf-16"),
    ("\ufeff" + WESTERN, "utf-16-be", "utf-16"),
    (WESTERN, "utf-32", "utf-32"),
    ("\ufeff" + WESTERN, "utf-32-be", "utf-32"),
    (WESTERN, "utf-16-le", "utf-16le"),
    (WESTERN, "utf-16-be", "utf-16be"),
    (WESTERN, "utf-32-le", "utf-32le"),
    (WESTERN, "utf-32-be", "utf-32be"),
    ("plain ASCII\n" * 9, "utf-16-le", "utf-16le"),
    ("plain ASCII\n" * 9, "utf-16-be", "utf-16be"),
    (RUSSIAN, "utf-16-le", "utf-16le"),
    (RUSSIAN, "utf-16-be", "utf-16be"),
    (CHINESE, "utf-16", "utf-16"),
]


@pytest.mark.parametrize("name", ["a.txt", "it's {0} a [file].txt", "bad\udcff.txt"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("case", CASES, ids=[f"{codec}-{number}" for number, (_, codec, _) in enumerate(CASES)])
def test_the_command_in_the_message_converts_the_file(
    tmp_path: Path, case: tuple[str, str, str], compressed: bool, name: str
) -> None:
    text, codec, encoding = case
    path = tmp_path / name
    content = text.encode(codec)
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(CorpusError, match="not UTF-8") as caught:
        list(find_corpus(str(path)).blocks())
    message = str(caught.value)
    assert "\n" not in message
    command = message.partition("; convert it first, for example with: ")[2]
    assert f"iconv -f {encoding} -t utf-8" in command
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b""
    assert (tmp_path / "NEW").read_bytes().decode().removeprefix("\ufeff") == text.removeprefix("\ufeff")


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@given(text=st.text(alphabet=st.characters(max_codepoint=0xFF, exclude_characters="\0"), min_size=8))
def test_western_text_of_eight_letters_never_passes(codec: str, text: str) -> None:
    with pytest.raises(CorpusError, match=f"iconv -f {codec.replace('-le', 'le').replace('-be', 'be')} "):
        check_is_text(text.encode(codec)[:4096], "it", "iconv -f {} -t utf-8")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_text_without_nuls_always_passes(text: str) -> None:
    check_is_text(text.encode(), "it", "")


def test_a_nul_here_and_there_passes() -> None:
    check_is_text((b"a log line, and\0" + b"another " * 16) * 20, "it", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(range(200)) + bytes(300), "is not a text: 301 of its first 508 bytes are NUL"),
        (bytes(4096), "is not a text: 4096 of its first 4096 bytes are NUL"),
        (b"PK\x03\x04\xff", "it is a ZIP archive: extract its text first"),
        (b"%PDF-1.4\n\xe2\xe3", "it is a PDF document: extract its text first"),
        (b"a.txt".ljust(257, b"\0") + b"ustar" + bytes(250), "/it is a tar archive: extract"),
        (b"PK\x03\x04" + bytes(100), "/it is a ZIP archive: extract its text first"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        list(find_corpus(f"{tmp_path}/it").blocks())


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("before", ["naïve café ", "plain ASCII " * 1000])
def test_a_file_that_is_utf_8_but_for_a_byte_is_offered_to_lose_it(
    tmp_path: Path, before: str, compressed: bool
) -> None:
    path = tmp_path / "a.txt"
    content = before.encode() + b"\xe9, and on\n"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(CorpusError, match=r"; if it is Latin-1: .* > NEW; to drop the bad bytes: ") as caught:
        list(find_corpus(str(path)).blocks())
    latin, _, drop = str(caught.value).partition("; if it is Latin-1: ")[2].partition("; to drop the bad bytes: ")
    for command, text in ((latin, content.decode("latin1")), (drop, f"{before}, and on\n")):
        subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
        assert (tmp_path / "NEW").read_text() == text
