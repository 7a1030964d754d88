"""Perplexity: between how many characters a model hesitates.

    perplexity = exp(-(1/n) sum ln P(x_t | x_<t))        over n scored characters

(d2l, chapter "Recurrent Neural Networks"). It is the geometric mean of 1/P, so that the length of a text cancels out
and texts of different lengths compare. (d2l calls it a harmonic mean: of the choices 2 and 8 that is 3.2, while the
perplexity of probabilities 1/2 and 1/8 is 4.) Three anchors:

    1           the model was certain at every character, and right
    |V|         it knew nothing: every one of the |V| symbols was equally probable
    infinity    it held a character impossible that occurred

A character is a Unicode code point also where the model reads bytes. The nats of a character's bytes are summed, so
that models of both alphabets compare.

Shapes: N symbols of a text.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from segue_training.errors import CorpusError
from segue_training.text.vocabulary import UNKNOWN_ID, Ids, Vocabulary

Scored = tuple[NDArray[np.floating], Ids]
"""ln P of each symbol of a part of a text, and those symbols."""

_LARGEST_EXPONENT: Final = 700.0
"""About where exp overflows."""


def perplexity_of(probabilities: Sequence[float]) -> float:
    """Return the geometric mean of 1/P over the probabilities of the characters that occurred, of which one is 0..1.

    Infinite if one of them is 0. Raises ValueError for none.
    """
    if not probabilities:
        raise ValueError("the perplexity of no characters is not defined")
    if min(probabilities) == 0:
        return math.inf
    return to_perplexity(-math.fsum(map(math.log, probabilities)) / len(probabilities))


def to_perplexity(nats: float) -> float:
    """Return exp(nats), of the mean nats of a character; infinity where a float cannot hold it."""
    return math.exp(nats) if nats < _LARGEST_EXPONENT else math.inf


def to_bits(nats: float) -> float:
    """Return nats / ln 2: the bits that an ideal compressor with this model spends on a character."""
    return nats / math.log(2)


class MeanNats:
    """A mean of nats per character, in the other units."""

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
    """What scoring a text came to."""

    nats: float
    """Mean negative log-probability of a character, in nats."""
    characters: int
    """How many were scored: of a text from its beginning all but the first, which is read only."""
    unknown: int
    """How many of them are outside the vocabulary, and scored as `<unk>`."""

    @classmethod
    def of(cls, scored: Iterable[Scored], vocabulary: Vocabulary) -> Self:
        """Add up the parts of a text, in float64 and without keeping them. Raises CorpusError for nothing at all."""
        nats, characters, unknown = 0.0, 0, 0
        for log_probabilities_N, ids_N in scored:
            nats -= float(log_probabilities_N.sum(dtype=np.float64))
            characters += int(np.count_nonzero(begins_character(ids_N, vocabulary)))
            unknown += int(np.count_nonzero(ids_N == UNKNOWN_ID))
        if characters == 0:
            raise CorpusError("the text holds no character to score: its first one is only read; give a longer one")
        return cls(nats / characters, characters, unknown)


@dataclass(frozen=True)
class Validation:
    """The whole validation text, scored in one pass each way. Of documents, both are the same."""

    fresh: Perplexity
    """From the zero state, as a session of the service begins."""
    carried: Perplexity
    """From the state that reading the end of the training text leaves."""


def begins_character(ids_N: Ids, vocabulary: Vocabulary) -> NDArray[np.bool_]:
    """Say of each symbol whether a character begins with it: all do but the bytes 10xxxxxx of UTF-8."""
    if vocabulary.alphabet == "characters":
        return np.ones(len(ids_N), dtype=np.bool_)
    return (ids_N <= 0x80) | (ids_N > 0xC0)  # an id is its byte + 1  # noqa: PLR2004


def first_character(ids_N: Ids, vocabulary: Vocabulary) -> int:
    """Return how many symbols the first character of a text takes."""
    begins_N = begins_character(ids_N[1:5], vocabulary)  # a code point has 4 bytes at most
    return 1 + int(begins_N.argmax()) if begins_N.any() else len(ids_N[:5])
