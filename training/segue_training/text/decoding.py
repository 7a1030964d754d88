"""From the bytes of a file to text: UTF-8, and JSON lines.

Both read in blocks, so that a file may be larger than memory; a record of JSON lines must fit in memory.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final

from segue_training.errors import BadRow
from segue_training.text.encodings import HEAD, not_utf_8

ICONV: Final = "iconv -f {} -t utf-8"
"""The command that converts a text to UTF-8, a format string for its encoding."""

BLOCK: Final = 2**18
"""Bytes per read."""

LeaveOut = Callable[[BadRow], None]
"""Called with each line that cannot be read, and is left out."""


def stop_at(row: BadRow) -> None:
    """Leave no line out."""
    raise row


class Origin:
    """Where bytes come from, for errors."""

    def __init__(self, name: str, remedy: str = ICONV) -> None:
        """`remedy` is a command that converts them to UTF-8, a format string for their encoding."""
        self._name = name
        self._remedy = remedy
        self._head = b""
        self._end = 0
        self._has_more = self._last_has_more = False
        """Whether there were bytes beyond ASCII before the block read last, and in it."""

    def read(self, block: bytes) -> bytes:
        """Take note of the next bytes, and return them."""
        if len(self._head) < HEAD:
            self._head += block[:HEAD]
        self._end += len(block)
        self._has_more = self._has_more or self._last_has_more
        self._last_has_more = not block.isascii()
        return block

    def not_utf_8(self, error: UnicodeDecodeError, line: int | None = None) -> BadRow:
        """Name the invalid byte in the bytes read last, and their line if it is known."""
        position = self._end - len(error.object) + error.start
        cut = "it is cut off, or in another encoding: " if error.reason == "unexpected end of data" else ""
        mostly = self._has_more or not error.object[: error.start].isascii() or position >= HEAD
        place = "" if line is None else f", line {line}"
        return BadRow(
            f"{self._name}{place} is not UTF-8: byte 0x{error.object[error.start]:02x} at position {position}; "
            f"{cut}{not_utf_8(self._head, self._remedy, mostly=mostly)}"
        )


def utf_8_blocks(file: BinaryIO, name: str, remedy: str = ICONV) -> Iterator[str]:
    """Yield the text of `file`, called `name` in errors. Raises CorpusError if it is not UTF-8.

    `remedy` is a command that converts the file, a format string for its encoding.
    """
    decoder, origin = codecs.getincrementaldecoder("utf-8")(), Origin(name, remedy)
    while block := file.read(BLOCK):
        yield _decode(decoder, block, origin)
    yield _decode(decoder, b"", origin)


def json_line_blocks(
    file: BinaryIO, name: str, field: str, remedy: str = ICONV, bad: LeaveOut = stop_at
) -> Iterator[str]:
    """Yield the string `field` of each record of `file`, each followed by a line feed.

    A record is a JSON object on a line; blank lines are skipped. `bad` is called with any other line: it raises BadRow.
    """
    return _gathered(_fields(file, name, field, remedy, bad))


def utf_8_lines(file: BinaryIO, name: str, remedy: str, bad: LeaveOut) -> Iterator[str]:
    """Yield the text of `file` in whole lines, without those that are not UTF-8: `bad` is called with each.

    A line must fit in memory.
    """
    return _gathered(text for _, text in _lines(file, Origin(name, remedy), bad))


def _fields(file: BinaryIO, name: str, field: str, remedy: str, bad: LeaveOut) -> Iterator[str]:
    for number, line in _lines(file, Origin(name, remedy), bad):
        if line.strip():
            try:
                text = _field(line, field, f"{name}, line {number}")
            except BadRow as error:
                bad(error)
            else:
                yield f"{text}\n"


def _decode(decoder: codecs.IncrementalDecoder, block: bytes, origin: Origin) -> str:
    """Decode the next `block`; an empty one ends the file."""
    try:
        return decoder.decode(origin.read(block), final=not block)
    except UnicodeDecodeError as error:
        raise origin.not_utf_8(error) from None


def _lines(file: BinaryIO, origin: Origin, bad: LeaveOut) -> Iterator[tuple[int, str]]:
    """Yield each line and its number, from 1."""
    for number, line in enumerate(file, 1):
        try:
            text = origin.read(line).decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            bad(origin.not_utf_8(error, number))
        else:
            yield number, text


def _field(line: str, field: str, place: str) -> str:
    record = _json(line, place)
    if not isinstance(record, dict):
        raise BadRow(f"{place}: the record is not a JSON object; write {{{json.dumps(field)}: ...}} on each line")
    if field not in record:
        raise BadRow(f"{place}: the record has no field {field!r} (fields: {', '.join(record) or 'none'})")
    text = record[field]
    if not isinstance(text, str):
        raise BadRow(f"{place}: field {field!r} is {json.dumps(text)[:40]}, not a string")
    return _encodable(text, f"{place}: field {field!r}")


def _json(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{place}: not JSON ({error}); each line must be one JSON record") from None


def _encodable(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise BadRow(
            f"{place} holds the lone surrogate \\u{code:04x} at position {error.start}, which is half a character; "
            "repair the record or leave it out"
        ) from None
    return text


def _gathered(texts: Iterable[str]) -> Iterator[str]:
    """Join short texts into blocks."""
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= BLOCK:
            yield "".join(block)
            block, size = [], 0
    yield "".join(block)
