"""Rows that cannot be scored: whether the run goes on, and what it says of them at its end."""

from dataclasses import dataclass
from typing import Final, Literal

from segue_client.errors import InvalidRequest

Policy = Literal["stop", "keep", "skip"]
"""What a bad row does: it ends the run, is printed with its error, or is left out."""

ERROR: Final = "error"
"""The field that says why a row has no score."""

REMEDY: Final = "--bad-rows skip or keep goes on after it"


class BadRow(InvalidRequest):
    """One row cannot be scored; the message names it."""


@dataclass
class Tally:
    """Counts the rows of one run."""

    total: int = 0
    bad: int = 0
    first: str = ""
    """What is wrong with the first bad one."""

    def note(self, error: str | None) -> None:
        """Count a row; `error` is None for a good one."""
        self.total += 1
        if error is not None:
            self.first = self.first or error
            self.bad += 1

    @property
    def summary(self) -> str:
        """One line on the bad rows."""
        return f"{self.bad:,} of {self.total:,} rows could not be scored; the first: {self.first}"
