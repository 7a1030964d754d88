"""JSON lines: objects with a field that is the text to score.

An object is read for its text, and written as the bytes that it was: numbers, escapes, the order of its fields and
those that are there twice stay as they are.
"""

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from segue_client.commands.score.bad_rows import ERROR, BadRow
from segue_client.commands.score.byte_lines import LINE_FEED, ByteLine
from segue_client.commands.score.inputs import Input
from segue_client.commands.score.printing import json_line

_BLANK: Final = b" \t\r\n"
"""What JSON has between its tokens."""

_MOST_DIGITS: Final = 600
"""Python refuses to read integers of more than 640 digits where it is told to be careful."""


@dataclass(frozen=True)
class Record:
    """One line of the file."""

    line: ByteLine
    names: Collection[str] | None = None
    """Of its fields; None if it is no object."""

    def with_field(self, name: str, value: object) -> bytes:
        """Return the object as it was, with one more field at its end; it has none of that name."""
        data = self.line.data
        head = data[: data.rindex(b"}")].rstrip(_BLANK)
        field = f"{json_line(name)}: {json_line(value)}".encode()
        return head + (b", " if self.names else b"") + field + data[len(head) :]

    def with_error(self, message: str, into: str) -> bytes:
        """Return the record with its error, and never with a field `into`, which says that there is a score.

        What cannot have another field is a text in an object of its own.
        """
        if self.names is None or not {ERROR, into}.isdisjoint(self.names):
            text = self.line.data.decode(errors="surrogateescape").rstrip("\r")
            return json_line({"record": text, ERROR: message}).encode()
        return self.with_field(ERROR, message)


def read_records(source: Input, field: str, into: str) -> Iterator[tuple[Record, str | BadRow] | None]:
    """Yield each record with its text, and None whenever the next read would block.

    Blank lines are skipped. A line that is not an object with a text in `field`, or has a field `into` already, comes
    with what is wrong with it.
    """
    for line in source.byte_lines(LINE_FEED):
        if line is None:
            yield None
        elif line.data.strip(_BLANK):
            yield _read(source, line, field, into)


def _read(source: Input, line: ByteLine, field: str, into: str) -> tuple[Record, str | BadRow]:
    record = Record(line)
    where = source.place(line)
    try:
        fields = _fields(source.decoded(line), where)
        record = Record(line, fields.keys())
        return record, _text(fields, field, into, where)
    except BadRow as error:
        return record, error


def _fields(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line, parse_int=_integer, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise BadRow(f"{where} is not JSON: {error.msg.removesuffix(' at')} at column {error.colno}") from error
    except RecursionError as error:
        raise BadRow(f"{where} is nested too deeply") from error
    except ValueError as error:  # raised below
        raise BadRow(f"{where}: {error}") from error
    if not isinstance(fields, dict):
        raise BadRow(f"{where} is not an object: it begins with {line.strip()[:20]!r}")
    return fields


def _integer(digits: str) -> float:
    """Return a number for a message: records are written as they were read."""
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _text(fields: dict[str, Any], field: str, into: str, where: str) -> str:
    if into in fields:
        raise BadRow(f"{where} has a field {into!r} already; name another one for the score with --into")
    if field not in fields:
        known = ", ".join(map(repr, fields)) or "none"
        raise BadRow(f"{where} has no field {field!r}; its fields are {known}; choose one with --field")
    text = fields[field]
    if not isinstance(text, str):
        raise BadRow(f"{where}: the field {field!r} is not a text but {json.dumps(text)[:40]}")
    return text
