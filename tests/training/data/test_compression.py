"""Compressed texts, against the tools that users have."""

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_training.data import compression
from segue_training.data.compression import COMPRESSIONS, compression_of, decompressed
from segue_training.data.corpus import find_corpus
from segue_training.errors import CorpusError

Compress = Callable[[bytes], bytes]

WAYS: dict[str, Compress] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
ways = pytest.mark.parametrize("suffix", list(WAYS))
TEXT = "".join(f"line {number} é猫\n" for number in range(20_000))


def read(source: object, field: str | None = None) -> str:
    return "".join(find_corpus(str(source), field).blocks())


def expanded(content: bytes, name: str = "it") -> bytes:
    found = compression_of(content[:20], name)
    return content if found is None else decompressed(io.BytesIO(content), found, name).read()


def test_every_format_has_a_test() -> None:
    assert [each.suffix for each in COMPRESSIONS] == list(WAYS)


@ways
@settings(deadline=None, max_examples=40)
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=4), padding=st.integers(0, 3))
def test_members_come_back_one_after_the_other(suffix: str, parts: list[bytes], padding: int) -> None:
    content = b"".join(WAYS[suffix](part) + bytes(4 * padding) for part in parts)
    assert expanded(content) == b"".join(parts)


@ways
def test_many_members_come_back(suffix: str) -> None:
    content = WAYS[suffix](b"ab") * 5000
    assert expanded(content) == b"ab" * 5000


@ways
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_is_cut_off_is_refused_with_its_name(suffix: str, data: st.DataObject) -> None:
    content = WAYS[suffix](TEXT[:3000].encode())
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(CorpusError, match=rf"^cut{suffix} (is cut off|is damaged|does not begin as)"):
        expanded(content[:length], f"cut{suffix}")


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_is_damaged_is_refused_or_harmless(suffix: str, data: st.DataObject) -> None:
    text = TEXT[:3000].encode()
    content = bytearray(WAYS[suffix](text))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    try:
        assert expanded(bytes(content), f"it{suffix}") == text  # such as the time in a header
    except CorpusError as error:
        assert str(error).startswith(f"it{suffix} ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


@ways
@pytest.mark.parametrize("garbage", [b"garbage", b"\x1f\x8bgarbage"])
def test_garbage_after_the_end_is_refused(suffix: str, garbage: bytes) -> None:
    with pytest.raises(CorpusError, match=r"^it is (damaged|cut off)"):
        expanded(WAYS[suffix](b"text") + garbage)


@ways
def test_a_file_by_name_a_folder_and_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    content = WAYS[suffix](b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    path = tmp_path / f"book.txt{suffix}"
    path.write_bytes(content)
    (tmp_path / "nameless").write_bytes(content)
    assert find_corpus(str(path)).name == "book"
    assert read(path) == read(tmp_path) == read(tmp_path / "nameless") == TEXT
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read("-") == TEXT


@ways
def test_json_lines_are_read_too(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"dump.jsonl{suffix}").write_bytes(WAYS[suffix](b'{"text": "a"}\n{"text": "b"}\n'))
    assert read(tmp_path, "text") == read(tmp_path / f"dump.jsonl{suffix}", "text") == "a\nb\n"


@ways
def test_a_file_whose_name_is_wrong_is_refused(tmp_path: Path, suffix: str) -> None:
    for content in (b"", b"plain text"):
        (tmp_path / f"a.txt{suffix.upper()}").write_bytes(content)
        with pytest.raises(CorpusError, match=r"/a\.txt.* does not begin as \w+ writes: copy it again if"):
            read(tmp_path)


@pytest.mark.parametrize("command", ["gzip -9", "zstd -q -19", "xz -9", "bzip2", "zstd -q --adapt --rsyncable -T2"])
def test_what_the_tools_write_is_read(tmp_path: Path, command: str) -> None:
    if shutil.which(command.split(maxsplit=1)[0]) is None:
        pytest.skip(f"{command.split(maxsplit=1)[0]} is not installed")
    done = subprocess.run([*command.split(), "-c"], input=TEXT.encode(), capture_output=True, check=True)
    (tmp_path / "it").write_bytes(done.stdout * 2)
    assert read(tmp_path / "it") == TEXT * 2


def test_a_frame_to_skip_is_skipped() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    assert expanded(skippable + WAYS[".zst"](b"a") + skippable + WAYS[".zst"](b"b")) == b"ab"


@ways
def test_a_bomb_takes_constant_memory(tmp_path: Path, suffix: str) -> None:
    mebibyte = b"a" * 2**20
    (tmp_path / "bomb").write_bytes(WAYS[suffix](mebibyte) * 3 + WAYS[suffix](mebibyte * 192))
    tracemalloc.start()
    characters = sum(len(block) for block in find_corpus(str(tmp_path / "bomb")).blocks())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert characters == 195 * 2**20
    assert peak < 48 * 2**20


@pytest.mark.parametrize("suffix", [".zst", ".xz"])
def test_a_file_that_needs_much_memory_is_refused_with_the_way_out(tmp_path: Path, suffix: str) -> None:
    if suffix == ".zst":
        parameters = zstandard.ZstdCompressionParameters(window_log=28)
        stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        content = stream.compress(TEXT.encode()) + stream.flush()
    else:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**28, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3}]
        content = lzma.compress(TEXT.encode(), filters=filters)
    path = tmp_path / f"large.txt{suffix}"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match="needs more than 129 MiB of memory to decompress: let ") as caught:
        read(path)
    command = str(caught.value).partition(": let ")[2].partition(" do it")[0]
    if shutil.which(command.split(maxsplit=1)[0]) is None:
        pytest.skip(f"{command.split(maxsplit=1)[0]} is not installed")
    done = subprocess.run([*command.split(), str(path)], capture_output=True, check=True)
    assert done.stdout == TEXT.encode()


@ways
@pytest.mark.parametrize("size", [1, 7, 512])
def test_a_format_may_be_read_in_small_pieces(monkeypatch: pytest.MonkeyPatch, suffix: str, size: int) -> None:
    monkeypatch.setattr(compression, "INPUT", size)
    monkeypatch.setattr(compression, "ZSTANDARD_INPUT", size)
    content = WAYS[suffix](TEXT[:5000].encode()) * 2
    assert expanded(content) == TEXT[:5000].encode() * 2
