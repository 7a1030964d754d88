"""From the bytes of a file to text: UTF-8, and JSON lines.

Both read in blocks, so that a file may be larger than memory; a record of JSON lines must fit in memory.
"""

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final

from segue_training.errors import CorpusError

BLOCK: Final = 2**18
"""Bytes per read."""


def utf_8_blocks(file: BinaryIO, origin: str) -> Iterator[str]:
    """Yield the text of `file`, named `origin` in errors. Raises CorpusError if it is not UTF-8."""
    decoder, end = codecs.getincrementaldecoder("utf-8")(), 0
    while block := file.read(BLOCK):
        end += len(block)
        yield _decode(decoder, block, end, origin)
    yield _decode(decoder, b"", end, origin)


def json_line_blocks(file: BinaryIO, origin: str, field: str) -> Iterator[str]:
    """Yield the string `field` of each record of `file`, each followed by a line feed.

    A record is a JSON object on a line; blank lines are skipped. Raises CorpusError for any other line.
    """
    return _gathered(
        _field(line, field, f"{origin}, line {number}") + "\n"
        for number, line in enumerate(_lines(file, origin), 1)
        if line.strip()
    )


def _decode(decoder: codecs.IncrementalDecoder, block: bytes, end: int, origin: str) -> str:
    """Decode `block`, which ends at byte `end` of its file; an empty block ends the file."""
    try:
        return decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
        raise _not_utf_8(error, end, origin) from None


def _not_utf_8(error: UnicodeDecodeError, end: int, origin: str) -> CorpusError:
    """Name the invalid byte; the bytes in `error` end at byte `end` of the file."""
    position = end - len(error.object) + error.start
    return CorpusError(
        f"{origin} is not UTF-8: byte 0x{error.object[error.start]:02x} at position {position}; "
        "convert it first, for example with iconv -t utf-8"
    )


def _lines(file: BinaryIO, origin: str) -> Iterator[str]:
    end = 0
    for line in file:
        encoding = "utf-8" if end else "utf-8-sig"
        end += len(line)
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            raise _not_utf_8(error, end, origin) from None


def _field(line: str, field: str, place: str) -> str:
    record = _json(line, place)
    if not isinstance(record, dict):
        raise CorpusError(f"{place}: the record is not a JSON object; write {{{json.dumps(field)}: ...}} on each line")
    if field not in record:
        raise CorpusError(f"{place}: the record has no field {field!r} (fields: {', '.join(record) or 'none'})")
    text = record[field]
    if not isinstance(text, str):
        raise CorpusError(f"{place}: field {field!r} is {json.dumps(text)[:40]}, not a string")
    return _encodable(text, f"{place}: field {field!r}")


def _json(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{place}: not JSON ({error}); each line must be one JSON record") from None


def _encodable(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise CorpusError(
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
