"""Checks of single values that a request brings."""

from collections.abc import Sequence
from typing import Protocol

from segue_server.errors import InvalidRequest


class Choices(Protocol):
    """An enumeration of the contract; its first value stands for none."""

    def keys(self) -> Sequence[str]:
        """Return the names."""

    def values(self) -> Sequence[int]:
        """Return the numbers."""


def check_choice(field: str, value: int, choices: Choices) -> None:
    """Refuse a number that names none of `choices`."""
    if value not in choices.values():
        raise InvalidRequest(f"{field} is {value}; choose one of {', '.join(choices.keys()[1:])}")


def check_at_most(what: str, value: int, limit: int) -> None:
    """Refuse `value` where it is above `limit`."""
    if value > limit:
        raise InvalidRequest(f"{what}: {value:,}; at most {limit:,} are allowed")
