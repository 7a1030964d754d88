"""Windows: the parts of a text, each with a score of its own."""

# Shape suffixes: N characters of a piece, W windows that end in it.

from dataclasses import dataclass
from typing import Final

import numpy as np
from segue.v1 import scoring_pb2 as pb

from segue_server.engine.sampling import Floats, Ids
from segue_server.errors import InvalidRequest

LINES: Final = 0
"""The size of windows that are lines, with the line feeds that end them."""


def read_windows(asked: pb.Windows) -> int | None:
    """Return the size of the windows in characters, LINES, or None for none; raises InvalidRequest."""
    if asked.before and asked.before >= asked.characters:
        raise InvalidRequest(
            f"windows.before is {asked.before}, windows.characters {asked.characters}; leave it out, or send how many "
            "characters of the first window stand before the text"
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


@dataclass(frozen=True)
class ScoredCharacters:
    """Some consecutive characters of a text, N, of which all but perhaps the first of the text are scored."""

    text: str
    log_probabilities: Floats
    """Of the last of them."""
    unknown_at: Ids
    """Which of them were read as `<unk>`."""

    def of_each(self) -> tuple[Floats, Ids, Ids]:
        """Return for each character [N] its log-probability, and 1 or 0 for whether it is scored and unknown."""
        log_probabilities_N = np.zeros(len(self.text))
        scored_N, unknown_N = np.zeros((2, len(self.text)), dtype=np.int64)
        unscored = len(self.text) - len(self.log_probabilities)
        log_probabilities_N[unscored:] = self.log_probabilities
        scored_N[unscored:] = 1
        unknown_N[self.unknown_at] = 1
        return log_probabilities_N, scored_N, unknown_N


class WindowCutter:
    """Cuts one text, that may come in pieces, into windows."""

    def __init__(self, size: int, before: int = 0) -> None:
        """`size`: the characters of a window, or LINES. `before`: how many of the first one stand before the text."""
        self._size = size
        self._before = before
        self._open = pb.WindowScore()
        """What has come of the window that the text stands in."""

    def add(self, characters: ScoredCharacters) -> list[pb.WindowScore]:
        """Return the windows that end in the next characters of the text."""
        if not characters.text:
            return []
        end_W = self._ends(characters.text)
        start_S = np.concatenate([[0], end_W])
        is_last_open = start_S[-1] < len(characters.text)
        if not is_last_open:
            start_S = start_S[:-1]
        sums = [np.add.reduceat(values_N, start_S).tolist() for values_N in characters.of_each()]
        counts = np.diff(start_S, append=len(characters.text)).tolist()
        complete = []
        for log_probability, scored, unknown, count in zip(*sums, counts, strict=True):
            self._open.sum_log_probability += log_probability
            self._open.scored_count += scored
            self._open.unknown_count += unknown
            self._open.character_count += count
            complete.append(self._open)
            self._open = pb.WindowScore(first=self._open.first + self._open.character_count)
        if is_last_open:
            self._open = complete.pop()
        if complete:
            self._before = 0
        return complete

    def end(self) -> list[pb.WindowScore]:
        """Return the window that the text ended in."""
        return [self._open] if self._open.character_count else []

    def _ends(self, text: str) -> Ids:
        """Return where windows end [W]."""
        if self._size == LINES:
            code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
            return np.flatnonzero(code_points == ord("\n")) + 1
        return np.arange(self._size - self._before - self._open.character_count, len(text) + 1, self._size)
