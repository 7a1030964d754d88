"""Settings as frozen dataclasses: ranges checked on construction, `key=value` parsed by the field's type.

A field's type gives its legal values: Annotated[int, Range(1, 64)], or Literal["adamw", "sgd"].
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from segue_training.errors import ConfigurationError, did_you_mean

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Range:
    """The legal values of a number, both ends included."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high  # False for NaN


def check_ranges(settings: Any) -> None:
    """Raise ConfigurationError for the first field of the dataclass `settings` that is out of range."""
    for name, annotation in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if get_origin(annotation) is Literal and value not in get_args(annotation):
            raise ConfigurationError(f"{name} is {value!r}; it must be {' or '.join(get_args(annotation))}")
        if get_origin(annotation) is Annotated:
            _check_range(name, value, annotation.__metadata__[0])


def override(settings: Settings, assignments: Iterable[str]) -> Settings:
    """Return `settings` with each "key=value" applied. Raises ConfigurationError."""
    changes = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"{assignment!r} is not a setting; write key=value")
        changes[key] = _parse(key, value, _annotation(settings, key))
    return replace(settings, **changes)  # type: ignore[type-var]


def _check_range(name: str, value: float, allowed: Range) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name} is {value}; it must be from {allowed.low} to {allowed.high}")


def _annotation(settings: Any, key: str) -> Any:
    known = [field.name for field in fields(settings)]
    if key not in known:
        raise ConfigurationError(
            f"no setting is called {key!r}{did_you_mean(key, known)} (settings: {', '.join(known)})"
        )
    return get_type_hints(type(settings), include_extras=True)[key]


def _parse(key: str, value: str, annotation: Any) -> Any:
    kind = annotation.__origin__ if get_origin(annotation) is Annotated else str
    try:
        return kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigurationError(f"{key} is {value!r}; it must be {wanted}") from None
