"""The score of one text, added up over its pieces."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from segue_server.api.windows import ScoredCharacters, Window, WindowCutter
from segue_server.engine.sampling import Floats, Ids
from segue_server.engine.scores import Alternatives
from segue_server.runtime.time_slices import Steps


@dataclass(frozen=True)
class Wanted:
    """What a request asks for besides sums and counts."""

    log_probabilities: bool
    ranks: bool
    alternatives: int
    """How many for each character."""
    windows: int | None
    """Their size; see `windows`."""
    text: bool
    window_before: int = 0
    """How many characters of the first window precede the text."""


@dataclass(frozen=True)
class CharacterScores:
    """Scores of consecutive characters."""

    log_probabilities: Floats
    """One for each scored character."""
    ranks: Ids
    """One for each scored character, if requested."""
    alternatives: list[Alternatives]
    """For each scored character, if requested; in parts, which are large together."""


@dataclass(slots=True)
class Details:
    """What a score reports for each character and window, as far as requested; arrays in order."""

    log_probabilities: list[Floats] = field(default_factory=list)
    ranks: list[Ids] = field(default_factory=list)
    alternatives: list[Alternatives] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    text: str = ""


@dataclass
class ScoreAccumulator:
    """Adds up the score of one text."""

    wanted: Wanted
    sum_log_probability: float = 0.0
    scored_count: int = 0
    unknown_count: int = 0
    _details: Details = field(default_factory=Details)

    def __post_init__(self) -> None:
        size = self.wanted.windows
        self._cutter = None if size is None else WindowCutter(size, self.wanted.window_before)

    def add(self, text: str, unknown_at: Ids, scores: CharacterScores) -> Steps[None]:
        """Add the next characters; `unknown_at`: positions in `text` that were read as `<unk>`."""
        log_probabilities, details = scores.log_probabilities, self._details
        self.sum_log_probability += float(log_probabilities.sum())
        self.scored_count += len(log_probabilities)
        self.unknown_count += len(unknown_at)
        if self.wanted.log_probabilities:
            details.log_probabilities.append(log_probabilities)
        if self.wanted.ranks:
            details.ranks.append(scores.ranks)
        details.alternatives += scores.alternatives
        if self.wanted.text:
            details.text += text
        if self._cutter:
            details.windows += yield from self._cutter.add(ScoredCharacters(text, log_probabilities, unknown_at))

    def end(self) -> None:
        """Close the last window."""
        if self._cutter:
            self._details.windows += self._cutter.end()

    def take_details(self) -> Details:
        """Return the details since the last call."""
        details, self._details = self._details, Details()
        return details


NO_SCORES: Final = CharacterScores(np.empty(0), np.empty(0, dtype=np.int64), [])
