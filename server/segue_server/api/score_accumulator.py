"""What has come of one text that is scored, as the wire wants it."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from segue.v1 import alternatives_pb2
from segue.v1 import scoring_pb2 as pb

from segue_server.api.windows import ScoredCharacters, WindowCutter
from segue_server.engine.model import Model
from segue_server.engine.sampling import Floats, Ids
from segue_server.engine.scores import Alternatives

_LARGEST_EXPONENT: Final = 709.0
"""exp of more does not fit into a float64."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside sums and counts."""

    log_probabilities: bool
    ranks: bool
    alternatives: int
    windows: int | None
    """Their size; see `windows`."""
    text: bool
    window_before: int = 0
    """How many characters of the first window stand before the text."""


@dataclass(frozen=True)
class Reading:
    """What came of reading some characters."""

    log_probabilities: Floats
    """One for each that was scored."""
    ranks: Ids
    """The same, where asked for."""
    alternatives: Alternatives | None
    """The same."""


class ScoreAccumulator:
    """Adds up one text, that may come in pieces."""

    def __init__(self, wanted: Wanted, model: Model) -> None:
        self._wanted = wanted
        self._model = model
        self._cutter = None if wanted.windows is None else WindowCutter(wanted.windows, wanted.window_before)
        self._sum = 0.0
        self._scored_count = 0
        self._unknown_count = 0
        self._news = pb.TextScore()

    def add(self, text: str, unknown_at: Ids, reading: Reading) -> None:
        """Take what came of the next characters; `unknown_at`: which of them were read as `<unk>`."""
        log_probabilities = reading.log_probabilities
        self._sum += float(log_probabilities.sum())
        self._scored_count += len(log_probabilities)
        self._unknown_count += len(unknown_at)
        if self._wanted.log_probabilities:
            self._news.log_probabilities.extend(log_probabilities.tolist())
        if self._wanted.ranks:
            self._news.ranks.extend(reading.ranks.tolist())
        if reading.alternatives is not None:
            self._news.alternatives.extend(alternatives_messages(reading.alternatives, self._model))
        if self._wanted.text:
            self._news.text += text
        if self._cutter:
            self._news.windows.extend(self._cutter.add(ScoredCharacters(text, log_probabilities, unknown_at)))

    def end(self) -> None:
        """Note that no more will come."""
        if self._cutter:
            self._news.windows.extend(self._cutter.end())

    def message(self, position: int, ticket: bytes) -> pb.TextScore:
        """Return the score up to here; what it has for each character and window is that since the last message."""
        score, self._news = self._news, pb.TextScore()
        score.sum_log_probability = self._sum
        score.scored_count = self._scored_count
        score.unknown_count = self._unknown_count
        score.position = position
        score.ticket = ticket
        if self._scored_count:
            mean = -self._sum / self._scored_count
            score.perplexity = math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf
            score.bits_per_character = mean / math.log(2)
        return score


def alternatives_messages(alternatives: Alternatives, model: Model) -> list[alternatives_pb2.Alternatives]:
    """Return those of each character; only models whose symbols are characters have any."""
    places = zip(alternatives.ids, alternatives.log_probabilities.tolist(), strict=True)
    return [
        alternatives_pb2.Alternatives(characters=model.vocabulary.decode(ids), log_probabilities=log_probabilities)
        for ids, log_probabilities in places
    ]


NOTHING_READ: Final = Reading(np.empty(0), np.empty(0, dtype=np.int64), None)
