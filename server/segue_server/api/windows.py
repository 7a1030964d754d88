"""Windows: consecutive parts of a text that are scored separately."""

# Shape suffixes: N characters of a piece, W windows that end in it, S windows that start in it.

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from segue.v1 import scoring_pb2 as pb

from segue_server.api.encoding import PART
from segue_server.engine.sampling import Floats, Ids
from segue_server.errors import InvalidRequest
from segue_server.runtime.time_slices import Steps

LINES: Final = 0
"""The size that stands for lines, each with its line feed."""

_WINDOWS_OF_A_STEP: Final = 512


def read_windows(asked: pb.Windows) -> int | None:
    """Return the size of a window in characters, LINES, or None for no windows; raises InvalidRequest."""
    if asked.before and asked.before >= asked.characters:
        raise InvalidRequest(
            f"windows.before is {asked.before}, windows.characters {asked.characters}; leave it out, or send how many "
            "characters of the first window precede the text"
        )
    match asked.WhichOneof("of"):
        case "characters":
            if not asked.characters:
                raise InvalidRequest("windows.characters is 0; send 1 or more, or leave windows out")
            return asked.characters
        case "lines":
            if not asked.lines:
                raise InvalidRequest("windows.lines is false; send true, or leave windows out")
            return LINES
        case _:
            return None


@dataclass(slots=True)
class Window:
    """The score of one window."""

    first: int = 0
    """The position of its first character in the text."""
    character_count: int = 0
    sum_log_probability: float = 0.0
    scored_count: int = 0
    unknown_count: int = 0


@dataclass(frozen=True)
class ScoredCharacters:
    """N consecutive characters of a text. All are scored, except perhaps the first of the text."""

    text: str
    log_probabilities: Floats
    """Of the scored ones, which are the last."""
    unknown_at: Ids
    """Positions in `text` that were read as `<unk>`."""

    def parts(self) -> "Iterator[ScoredCharacters]":
        """Yield the characters in parts of up to PART."""
        if len(self.text) <= PART:  # nearly always
            if self.text:
                yield self
            return
        unscored = len(self.text) - len(self.log_probabilities)
        for begin in range(0, len(self.text), PART):
            end = begin + PART
            first, last = np.searchsorted(self.unknown_at, (begin, end))
            yield ScoredCharacters(
                self.text[begin:end],
                self.log_probabilities[max(0, begin - unscored) : end - unscored],
                self.unknown_at[first:last] - begin,
            )

    def by_character(self) -> tuple[Floats, Ids, Ids]:
        """Return for each character [N] its log-probability, and 1 or 0 for scored and for unknown."""
        log_probabilities_N = np.zeros(len(self.text))
        scored_N, unknown_N = np.zeros((2, len(self.text)), dtype=np.int64)
        unscored = len(self.text) - len(self.log_probabilities)
        log_probabilities_N[unscored:] = self.log_probabilities
        scored_N[unscored:] = 1
        unknown_N[self.unknown_at] = 1
        return log_probabilities_N, scored_N, unknown_N


@dataclass
class WindowCutter:
    """Cuts one text, which may arrive in pieces, into windows."""

    size: int
    """Characters of a window, or LINES."""
    before: int = 0
    """How many characters of the first window precede the text."""
    _open: Window = field(default_factory=Window)
    """The window that the text has reached."""

    def add(self, characters: ScoredCharacters) -> Steps[list[Window]]:
        """Return the windows that end in the next characters of the text."""
        windows = []
        for part in characters.parts():
            windows += yield from self._add(part)
        return windows

    def _add(self, characters: ScoredCharacters) -> Steps[list[Window]]:
        if len(characters.text) > _WINDOWS_OF_A_STEP:
            yield
        end_W = self._ends(characters.text)
        start_S = np.concatenate([[0], end_W])
        is_last_open = start_S[-1] < len(characters.text)
        if not is_last_open:
            start_S = start_S[:-1]
        sums = [np.add.reduceat(values_N, start_S).tolist() for values_N in characters.by_character()]
        counts = np.diff(start_S, append=len(characters.text)).tolist()
        complete: list[Window] = []
        for log_probability, scored, unknown, count in zip(*sums, counts, strict=True):
            self._open.sum_log_probability += log_probability
            self._open.scored_count += scored
            self._open.unknown_count += unknown
            self._open.character_count += count
            complete.append(self._open)
            self._open = Window(self._open.first + self._open.character_count)
            if len(complete) % _WINDOWS_OF_A_STEP == 0:
                yield
        if is_last_open:
            self._open = complete.pop()
        if complete:
            self.before = 0
        return complete

    def end(self) -> list[Window]:
        """Return the last window if it is not complete."""
        return [self._open] if self._open.character_count else []

    def _ends(self, text: str) -> Ids:
        """Return where windows end in `text` [W]."""
        if self.size == LINES:
            code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
            return np.flatnonzero(code_points == ord("\n")) + 1
        return np.arange(self.size - self.before - self._open.character_count, len(text) + 1, self.size)
