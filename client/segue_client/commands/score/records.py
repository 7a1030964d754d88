"""JSON lines: objects of which one field is a text to score."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from segue_client.commands.score.inputs import Input
from segue_client.errors import InvalidRequest


@dataclass(frozen=True)
class Record:
    """One object, and where it stands."""

    number: int
    """Of its line, counted from 1."""
    fields: dict[str, Any]


def read_records(source: Input, field: str) -> Iterator[tuple[Record, str] | None]:
    """Yield each object with its text, and None whenever there is none to be had at once.

    Raises InvalidRequest for a line that is no object with a text in `field`; empty lines are passed over.
    """
    number = 0
    for line in source.lines():
        if line is None:
            yield None
            continue
        number += 1
        if line.strip():
            fields = _fields(line, f"{source.name}, line {number:,}")
            yield Record(number, fields), _text(fields, field, f"{source.name}, line {number:,}")


def scored(record: Record, score: dict[str, object], into: str, name: str) -> dict[str, object]:
    """Return all fields of `record`, with `score` as another one; raises InvalidRequest where it has that already."""
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
    except ValueError as error:  # an integer of too many digits, or of those below
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
