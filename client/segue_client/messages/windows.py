"""Windows: parts of a text with a score each, to find the surprising ones."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from segue.v1 import scoring_pb2

from segue_client.errors import InvalidRequest
from segue_client.messages.surprisal import Surprisal

WindowSize: TypeAlias = int | Literal["lines"]
"""Characters per window (the last may be shorter); or each line, with the line feed that ends it."""

MAX_CHARACTERS: Final = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class WindowScore(Surprisal):
    """The score of one window of a text."""

    first: int
    """Characters of the (normalized) text before it."""
    character_count: int
    unknown_count: int = 0
    """Characters read as `<unk>`."""

    @property
    def end(self) -> int:
        """Characters of the text before the next window."""
        return self.first + self.character_count

    def continued(self, rest: "WindowScore") -> "WindowScore":
        """Return this window joined with the rest of it, which was scored later."""
        return WindowScore(
            first=self.first,
            character_count=self.character_count + rest.character_count,
            sum_log_probability=self.sum_log_probability + rest.sum_log_probability,
            scored_count=self.scored_count + rest.scored_count,
            unknown_count=self.unknown_count + rest.unknown_count,
        )


def shifted(windows: Iterable[WindowScore], by: int) -> tuple[WindowScore, ...]:
    """Return the windows as those of a text with `by` more characters before it."""
    return tuple(replace(window, first=window.first + by) for window in windows)


def windows_message(size: WindowSize | None, *, before: int = 0) -> scoring_pb2.Windows | None:
    """Translate the size; raise InvalidRequest for an invalid one.

    `before`: characters of the first window that were scored before the text.
    """
    if size is None:
        return None
    if size == "lines":
        return scoring_pb2.Windows(lines=True)
    if type(size) is not int or not 1 <= size <= MAX_CHARACTERS:
        raise InvalidRequest(f"windows is {size!r}; choose 1 to {MAX_CHARACTERS:,} characters, or 'lines'")
    return scoring_pb2.Windows(characters=size, before=before)


def windows_from(messages: Iterable[scoring_pb2.WindowScore]) -> tuple[WindowScore, ...]:
    """Translate the wire's windows."""
    return tuple(
        WindowScore(
            first=window.first,
            character_count=window.character_count,
            sum_log_probability=window.sum_log_probability,
            scored_count=window.scored_count,
            unknown_count=window.unknown_count,
        )
        for window in messages
    )
