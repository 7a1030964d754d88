"""Perplexity: the number of equally likely characters that would be as hard to predict.

    perplexity = exp(-(1/n) sum ln P(x_t | x_<t))        over n scored characters

(d2l, chapter "Recurrent Neural Networks"). It is the geometric mean of 1/P, so that texts of different lengths compare.
(d2l calls it a harmonic mean: of the choices 2 and 8 that is 3.2, while the perplexity of probabilities 1/2 and 1/8 is
4.) Three anchors:

    1           the model predicted every character with certainty
    |V|         it knew nothing: all |V| symbols were equally probable
    infinity    it gave probability 0 to a character that occurred

A character is a Unicode code point even if the model reads bytes: the nats of its bytes are summed, so that models of
both alphabets compare.

Shapes: N symbols of a text.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from segue_training.errors import CorpusError
from segue_training.text.vocabulary import UNKNOWN_ID, Ids, Vocabulary

Scored = tuple[NDArray[np.floating], Ids]
"""ln P of each symbol in a part of a text, and those symbols; both [N]."""

_LARGEST_EXPONENT: Final = 700.0
"""About where exp overflows."""


def to_perplexity(nats: float) -> float:
    """Return exp(nats) for the mean nats per character; infinity if that overflows."""
    return math.exp(nats) if nats < _LARGEST_EXPONENT else math.inf


def to_bits(nats: float) -> float:
    """Return nats / ln 2: the bits per character of an ideal compressor with this model."""
    return nats / math.log(2)


class MeanNats:
    """Nats per character, also in the other units."""

    nats: float

    @property
    def perplexity(self) -> float:
        """exp(nats)."""
        return to_perplexity(self.nats)

    @property
    def bits(self) -> float:
        """Bits per character."""
        return to_bits(self.nats)


@dataclass(frozen=True)
class Perplexity(MeanNats):
    """The score of a text."""

    nats: float
    """Mean negative log-probability per character."""
    characters: int
    """Scored characters; the first character of a text is read only."""
    unknown: int
    """Those outside the vocabulary, scored as `<unk>`."""

    @classmethod
    def of(cls, scored: Iterable[Scored], vocabulary: Vocabulary) -> Self:
        """Sum up the parts of a text in float64, in constant memory. Raises CorpusError if there are no characters."""
        nats, characters, unknown = 0.0, 0, 0
        for log_probabilities_N, ids_N in scored:
            nats -= float(log_probabilities_N.sum(dtype=np.float64))
            characters += int(np.count_nonzero(begins_character(ids_N, vocabulary)))
            unknown += int(np.count_nonzero(ids_N == UNKNOWN_ID))
        if characters == 0:
            raise CorpusError("the text holds no character to score: its first is only read; use a longer text")
        return cls(nats / characters, characters, unknown)


@dataclass(frozen=True)
class Validation:
    """The scores of the whole validation text. For documents, both are the same."""

    fresh: Perplexity
    """From the zero state, as a new request to the server."""
    carried: Perplexity
    """From the state after the end of the training text."""


def begins_character(ids_N: Ids, vocabulary: Vocabulary) -> NDArray[np.bool_]:
    """Return whether each symbol begins a character: all do, except the bytes 10xxxxxx of UTF-8."""
    if vocabulary.alphabet == "characters":
        return np.ones(len(ids_N), dtype=np.bool_)
    return (ids_N <= 0x80) | (ids_N > 0xC0)  # an id is its byte + 1  # noqa: PLR2004


def first_character(ids_N: Ids, vocabulary: Vocabulary) -> int:
    """Return the number of symbols in the first character of a text."""
    begins_N = begins_character(ids_N[1:5], vocabulary)  # a code point has at most 4 bytes
    return 1 + int(begins_N.argmax()) if begins_N.any() else len(ids_N[:5])
