"""Checks of single values in a request."""

from collections.abc import Sequence
from typing import Protocol

from segue_server.errors import InvalidRequest


class Choices(Protocol):
    """An enumeration; its first value means unspecified."""

    def keys(self) -> Sequence[str]:
        """Return the names."""

    def values(self) -> Sequence[int]:
        """Return the numbers."""


def check_choice(field: str, value: int, choices: Choices) -> None:
    """Raise InvalidRequest for a number that is none of `choices`."""
    if value not in choices.values():
        raise InvalidRequest(f"{field} is {value}; choose one of {', '.join(choices.keys()[1:])}")


def check_at_most(what: str, value: int, limit: int) -> None:
    """Raise InvalidRequest if `value` is above `limit`."""
    if value > limit:
        raise InvalidRequest(f"{what}: {value:,}; at most {limit:,} are allowed")
