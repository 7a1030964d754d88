"""The language of the study: a subject, a gap of a given length, a verb that agrees with the subject.

    the cats, dogs already ate a bunch of food were full
            |<------------ gap ------------->|

The distance of a sentence is the length of its gap, in characters from the subject, whose last letter tells its number,
to the verb. A gap is a comma, random words, and a space. The words include nouns of both numbers, so that neither the
last noun nor the last "s" gives the verb away.

Shapes: B sentences, T characters of each.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from segue_training.text.vocabulary import Vocabulary

NOUNS: Final = ("cat", "dog", "bird", "horse", "king", "pilot", "singer", "baker", "rabbit", "neighbour")
OTHERS: Final = (
    *("a", "i", "of", "to", "in", "by", "on", "at", "and", "the", "all", "ate", "saw", "who", "with", "near", "that"),
    *("from", "food", "large", "small", "green", "quiet", "after", "often", "bunch", "which", "under", "behind"),
    *("already", "between", "seventeen"),
)
WORDS: Final = (*NOUNS, *(noun + "s" for noun in NOUNS), *OTHERS)
"""The words of gaps."""

SINGULAR: Final = "was"
PLURAL: Final = "were"

SHORTEST: Final = 2
"""Length of a gap without words: a comma and a space."""

_EDGE: Final = "\n"
_PADDING: Final = "\0"


@dataclass(frozen=True)
class Sentence:
    """A sentence, enclosed by line feeds."""

    noun: str
    gap: str
    plural: bool

    @property
    def before(self) -> str:
        """The text before the verb."""
        return f"{_EDGE}the {self.noun}{'s' if self.plural else ''}{self.gap}"

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.before}{PLURAL if self.plural else SINGULAR} full{_EDGE}"


VOCABULARY: Final = Vocabulary.from_text(Sentence(" ".join(WORDS), ",", plural=False).text)
"""The characters of the language."""


def is_distance(distance: int) -> bool:
    """Return whether gaps of `distance` characters exist: not of 3, where a word would have no letter."""
    return distance >= SHORTEST and distance != SHORTEST + 1


def draw_gap(distance: int, chance: random.Random) -> str:
    """Draw a gap of exactly `distance` characters, for which `is_distance` holds."""
    gap = ","
    while len(gap) + 1 < distance:
        gap += " " + chance.choice(_fitting(distance - len(gap) + 1))
    return gap + " "


def draw_sentence(distance: int, chance: random.Random) -> Sentence:
    """Draw a sentence of that distance, singular or plural."""
    return chance.choice(draw_pair(distance, chance))


def draw_pair(distance: int, chance: random.Random) -> tuple[Sentence, Sentence]:
    """Draw a sentence of that distance in both numbers, the singular first."""
    noun, gap = chance.choice(NOUNS), draw_gap(distance, chance)
    return Sentence(noun, gap, plural=False), Sentence(noun, gap, plural=True)


def encode(texts: Sequence[str]) -> Tensor:
    """Return ids_BT of texts, padded at their ends with id 0, which no sentence contains."""
    longest = max(map(len, texts))
    ids = VOCABULARY.encode("".join(text.ljust(longest, _PADDING) for text in texts))
    return torch.from_numpy(ids).view(len(texts), longest)


@cache
def _fitting(distance: int) -> tuple[str, ...]:
    """Return the words that a gap of `distance` characters may begin with, so that the rest can be filled."""
    return tuple(word for word in WORDS if is_distance(distance - len(word) - 1))
