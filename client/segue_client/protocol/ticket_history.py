"""The earlier states of a text, to which it can be rewound."""

from typing import Final

REWINDABLE: Final = 4096
"""How many of the last characters can be taken back at least, if tickets arrived on the way and the text is as long."""

_SPACING: Final = 256
"""Of tickets closer together than this, some are dropped."""


class TicketHistory:
    """The last tickets of a text, each with the number of characters before it. Bounded."""

    def __init__(self, marks: list[tuple[int, bytes | None]]) -> None:
        """Begin with `marks`; a ticket of None is the start of the request."""
        self._marks = marks

    def add(self, count: int, ticket: bytes) -> None:
        """Add the ticket after `count` characters."""
        marks = self._marks
        if len(marks) > 1 and marks[-1][0] - marks[-2][0] < _SPACING:
            del marks[-1]
        marks.append((count, ticket))
        while len(marks) > 1 and marks[1][0] <= count - REWINDABLE:
            del marks[0]

    def clear(self) -> None:
        """Forget everything: no host will write the same from there."""
        self._marks.clear()

    @property
    def latest(self) -> tuple[int, bytes] | None:
        """The last ticket that arrived on the way, if any."""
        count, ticket = self._marks[-1] if self._marks else (0, None)
        return (count, ticket) if count and ticket else None

    @property
    def earliest_count(self) -> int | None:
        """The fewest characters to which the text can be rewound; None if it cannot.

        From the start of the request at least one character must be written: the state before it has no ticket.
        """
        if not self._marks:
            return None
        count, ticket = self._marks[0]
        return count if ticket is not None else count + 1

    def before(self, count: int) -> tuple[int, bytes | None]:
        """Return the last mark at or before `count` characters."""
        return next(mark for mark in reversed(self._marks) if mark[0] <= count)
