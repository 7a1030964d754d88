"""The states that a text has come through: how far back it can be taken."""

from typing import Final

REWINDABLE: Final = 4096
"""So many of the last characters can be taken back, where tickets have come on the way; fewer in a shorter text."""

_SPACING: Final = 256
"""Tickets nearer to each other than this are not all kept."""


class TicketHistory:
    """A bounded ring of tickets, each with the number of characters that were written before it."""

    def __init__(self, marks: list[tuple[int, bytes | None]]) -> None:
        """Begin with `marks`; a ticket that is None stands for the request itself."""
        self._marks = marks

    def note(self, count: int, ticket: bytes) -> None:
        """Keep the ticket of the state after `count` characters."""
        marks = self._marks
        if len(marks) > 1 and marks[-1][0] - marks[-2][0] < _SPACING:
            del marks[-1]
        marks.append((count, ticket))
        while len(marks) > 1 and marks[1][0] <= count - REWINDABLE:
            del marks[0]

    def clear(self) -> None:
        """Forget all: no host will bring the same from there on."""
        self._marks.clear()

    @property
    def latest(self) -> tuple[int, bytes] | None:
        """The last ticket that came on the way; None where there was none."""
        count, ticket = self._marks[-1] if self._marks else (0, None)
        return (count, ticket) if count and ticket else None

    @property
    def earliest_count(self) -> int | None:
        """The fewest characters to which the text can be taken back; None where it cannot.

        From the request itself at least one character is written: the state before it has no ticket.
        """
        if not self._marks:
            return None
        count, ticket = self._marks[0]
        return count if ticket is not None else count + 1

    def before(self, count: int) -> tuple[int, bytes | None]:
        """Return the last mark that is not behind `count` characters."""
        return next(mark for mark in reversed(self._marks) if mark[0] <= count)
