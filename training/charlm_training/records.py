"""Nested frozen dataclasses from JSON values, strictly: every field there, none unknown, each of its type."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def from_json(kind: type[Record], value: Any, at: str = "") -> Record:
    """Return `value`, as json.loads gives it, as the dataclass `kind`. Raises ValueError naming the field."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{at or 'the document'} is not an object")  # noqa: TRY004 - wrong data, not a bug
    hints = get_type_hints(kind, include_extras=True)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if wrong := sorted(set(names) ^ set(value)):
        problem = "is missing" if wrong[0] in names else "is not known"
        raise ValueError(f"{_join(at, wrong[0])} {problem}")
    return kind(**{name: _field(hints[name], value[name], _join(at, name)) for name in names})


def _field(annotation: Any, value: Any, at: str) -> Any:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _field(annotation.__origin__, value, at)
    if dataclasses.is_dataclass(annotation):
        return from_json(annotation, value, at)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        return tuple(_field(get_args(annotation)[0], item, at) for item in value)
    if origin is Literal and value in get_args(annotation):
        return value
    if annotation is float and type(value) in (int, float):
        return float(value)
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    raise ValueError(f"{at} is {value!r}, not {_name(annotation)}")


def _name(annotation: Any) -> str:
    return annotation.__name__ if type(annotation) is type else str(annotation).removeprefix("typing.")


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
