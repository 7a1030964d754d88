"""JSON lines: objects with a field that is the text to score."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from segue_client.commands.score.inputs import Input
from segue_client.errors import InvalidRequest


@dataclass(frozen=True)
class Record:
    """One object of the file."""

    number: int
    """Of its line, from 1."""
    fields: dict[str, Any]


def read_records(source: Input, field: str) -> Iterator[tuple[Record, str] | None]:
    """Yield each object with its text, and None whenever the next read would block.

    Blank lines are skipped. Raises InvalidRequest for a line that is not an object with a text in `field`.
    """
    for item in source.lines():
        if item is None:
            yield None
            continue
        number, line = item
        if line.strip():
            where = f"{source.name}, line {number:,}"
            fields = _fields(line, where)
            yield Record(number, fields), _text(fields, field, where)


def scored(record: Record, score: dict[str, object], into: str, name: str) -> dict[str, object]:
    """Return the fields of `record` with `score` added as `into`; raises InvalidRequest if that field exists."""
    if into in record.fields:
        raise InvalidRequest(f"{name} has a field {into!r} already; name another one for the score with --into")
    return {**record.fields, into: score}


def _fields(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line, parse_float=_finite, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"{where} is not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise InvalidRequest(f"{where} is nested too deeply") from error
    except ValueError as error:  # too many digits, or raised below
        raise InvalidRequest(f"{where}: {str(error).partition(';')[0]}") from error
    if not isinstance(fields, dict):
        raise InvalidRequest(f"{where} is not an object: it begins with {line.strip()[:20]!r}")
    return fields


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number} is too large")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _text(fields: dict[str, Any], field: str, where: str) -> str:
    if field not in fields:
        known = ", ".join(map(repr, fields)) or "none"
        raise InvalidRequest(f"{where} has no field {field!r}; its fields are {known}; choose one with --field")
    text = fields[field]
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}: the field {field!r} is not a text but {json.dumps(text)[:40]}")
    return text
