import io
import json
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.errors import CorpusError
from segue_training.text import decoding
from segue_training.text.decoding import json_line_blocks, utf_8_blocks

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(texts, st.integers(1, 7))
def test_a_code_point_may_lie_in_two_blocks(text: str, block: int) -> None:
    with patch.object(decoding, "BLOCK", block):
        assert "".join(utf_8_blocks(io.BytesIO(text.encode()), "it")) == text


@given(st.binary(max_size=20), st.integers(1, 7))
def test_the_byte_at_fault_is_found_as_in_the_whole(content: bytes, block: int) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        expected = f"it is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start};"
        with patch.object(decoding, "BLOCK", block), pytest.raises(CorpusError, match=expected):
            list(utf_8_blocks(io.BytesIO(content), "it"))


@given(st.lists(texts), st.integers(1, 30), st.booleans())
def test_each_record_is_its_text_and_a_line_feed(records: list[str], block: int, ascii_only: bool) -> None:
    lines = [json.dumps({"id": 1, "text": text}, ensure_ascii=ascii_only) + "\n" for text in records]
    with patch.object(decoding, "BLOCK", block):
        blocks = list(json_line_blocks(io.BytesIO("".join(lines).encode()), "it", "text"))
    assert "".join(blocks) == "".join(text + "\n" for text in records)


def test_records_may_have_a_mark_other_line_ends_and_blank_lines() -> None:
    content = '\ufeff{"t": "a"}\r\n\n  \n{"t": ""}\n{"t": "é"}'.encode()
    assert "".join(json_line_blocks(io.BytesIO(content), "it", "t")) == "a\n\né\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"not JSON \(Expecting property name"),
        (b"[" * 100_000, r"not JSON \(maximum recursion depth"),
        (b'["t"]', r'the record is not a JSON object; write \{"t": '),
        (b'{"u": "a", "v": 1}', r"the record has no field 't' \(fields: u, v\)"),
        (b"{}", r"the record has no field 't' \(fields: none\)"),
        (b'{"t": 5}', "field 't' is 5, not a string"),
        (b'{"t": null}', "field 't' is null, not a string"),
        (rb'{"t": "ab\ud800"}', r"field 't' holds the lone surrogate \\ud800 at position 2, which is half a character"),
    ],
)
def test_a_record_that_holds_no_text_is_named_with_its_line(line: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=f"^a.jsonl, line 3: {message}"):
        list(json_line_blocks(io.BytesIO(b'{"t": "a"}\n\n' + line + b"\n"), "a.jsonl", "t"))


def test_a_record_that_is_not_utf_8_is_named_with_its_byte_in_the_file() -> None:
    with pytest.raises(CorpusError, match="it, line 2 is not UTF-8: byte 0xf1 at position 21;"):
        list(json_line_blocks(io.BytesIO(b'\xef\xbb\xbf{"t": "a"}\n{"t": "\xf1"}'), "it", "t"))


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert "".join(json_line_blocks(io.BytesIO(rb'{"t": "\ud83d\udc08"}'), "it", "t")) == "🐈\n"
