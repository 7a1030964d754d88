"""The surprisal of each character of a text, and what the model expected instead.

The surprisal of a character is -ln P given all previous characters: 0 if it was certain; each nat makes it e times less
likely. The mean of the surprisals is the text's nats per character (see `evaluate`).

The probability of a character of several bytes is the product of theirs. An alternative departs from it at one of the
bytes and has the probability of the bytes up to there. The alternatives exclude each other, and with the character
itself their probabilities sum to 1.

Shapes: N symbols of a text, T of a chunk, V vocabulary.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor

from segue_training.evaluation.perplexity import begins_character
from segue_training.evaluation.sample import LINE_FEED
from segue_training.models import LanguageModel
from segue_training.text.documents import document_spans, whole_documents
from segue_training.text.vocabulary import UNKNOWN_ID, Documents, Ids, Vocabulary

CHUNK: Final = 512
"""Symbols whose logits are in memory at a time."""


@dataclass(frozen=True)
class Alternative:
    """Another possible continuation."""

    text: str
    """A character, `<unk>`, or the first bytes of a character: "E2 80 …"."""
    probability: float


@dataclass(frozen=True)
class Surprisal:
    """A character of a text, and how the model predicted it."""

    character: str
    nats: float
    """-ln P."""
    alternatives: tuple[Alternative, ...]
    """The likeliest others, likeliest first."""

    @property
    def probability(self) -> float:
        """P of the character."""
        return math.exp(-self.nats)


@dataclass(frozen=True)
class _Place:
    """A symbol of a text, and how the model predicted it."""

    symbol: int
    log_probability: float
    likeliest: tuple[tuple[int, float], ...]
    """(id, ln P) of others, likeliest first."""


def surprisals(
    model: LanguageModel, vocabulary: Vocabulary, ids_N: Ids, *, documents: Documents = "none", alternatives: int = 3
) -> tuple[Surprisal, ...]:
    """Score each character of a text from the zero state, except the first, which is read only.

    With documents="lines" every line is scored from the zero state, from its first character to its line feed.
    """
    found: list[Surprisal] = []
    for text_N in _texts(vocabulary, ids_N, documents):
        places = _places(model, text_N, alternatives + 2)  # the symbol itself and <unk> may be among them
        for start, end in islice(pairwise([*_starts(vocabulary, text_N), len(text_N)]), 1, None):
            found.append(_surprisal(vocabulary, places[start - 1 : end - 1], alternatives))
    return tuple(found)


def passage(vocabulary: Vocabulary, ids_N: Ids, longest: int, documents: Documents = "none") -> Ids:
    """Return the beginning of a text, at most `longest` symbols, without a cut character or document at the end.

    A first document longer than that is cut.
    """
    if len(ids_N) <= longest:
        return ids_N
    if documents == "lines" and len(whole_N := whole_documents(ids_N[:longest], vocabulary.line_feed)):
        return whole_N
    return ids_N[: _starts(vocabulary, ids_N[: longest + 1])[-1]]


def _texts(vocabulary: Vocabulary, ids_N: Ids, documents: Documents) -> Iterator[Ids]:
    """Yield the texts to read from the zero state: the whole text, or each line after a line feed."""
    if documents == "none":
        yield ids_N
        return
    line_feed = vocabulary.encode(LINE_FEED)
    for start, length in document_spans(ids_N, vocabulary.line_feed):
        yield np.concatenate([line_feed, ids_N[start : start + length + 1]])


def _starts(vocabulary: Vocabulary, ids_N: Ids) -> list[int]:
    """Return the positions where characters begin, always including the first symbol."""
    begins_N = begins_character(ids_N, vocabulary)
    begins_N[:1] = True
    return np.flatnonzero(begins_N).tolist()


@torch.inference_mode()
def _places(model: LanguageModel, ids_N: Ids, likeliest: int) -> list[_Place]:
    """Return the places of ids_N[1:]."""
    model.eval()
    places: list[_Place] = []
    state = model.zero_state()
    read_N = torch.from_numpy(ids_N.astype(np.int64)).to(next(model.parameters()).device)
    for start in range(0, len(ids_N) - 1, CHUNK):
        ids_T = read_N[start : start + CHUNK + 1]
        logits_BTV, *rest = model(ids_T[None, :-1], *state)
        places += _chunk(logits_BTV[0].double().log_softmax(1), ids_T[1:], likeliest)
        state = tuple(rest)
    return places


def _chunk(log_probabilities_TV: Tensor, targets_T: Tensor, likeliest: int) -> Iterator[_Place]:
    top = log_probabilities_TV.topk(min(likeliest, log_probabilities_TV.shape[1]))
    own_T = log_probabilities_TV.gather(1, targets_T[:, None])[:, 0]
    columns = (targets_T, own_T, top.indices, top.values)
    for symbol, own, ids, values in zip(*(column.tolist() for column in columns), strict=True):
        others = tuple((i, value) for i, value in zip(ids, values, strict=True) if i != symbol)
        yield _Place(symbol, own, others)


def _surprisal(vocabulary: Vocabulary, places: Sequence[_Place], alternatives: int) -> Surprisal:
    nats = -sum(place.log_probability for place in places)
    others = sorted(_others(vocabulary, places), key=lambda other: -other.probability)
    character = vocabulary.decode([place.symbol for place in places])
    return Surprisal(character, max(nats, 0.0), tuple(others[:alternatives]))


def _others(vocabulary: Vocabulary, places: Iterable[_Place]) -> Iterator[Alternative]:
    """Yield the alternatives that depart from a character, at each of its symbols."""
    same: list[int] = []
    log_probability = 0.0
    for place in places:
        for symbol, value in place.likeliest:
            if symbol != UNKNOWN_ID or vocabulary.alphabet == "characters":
                yield Alternative(_text(vocabulary, [*same, symbol]), math.exp(log_probability + value))
        same.append(place.symbol)
        log_probability += place.log_probability


def _text(vocabulary: Vocabulary, ids: list[int]) -> str:
    if vocabulary.alphabet == "characters":
        return vocabulary.decode(ids)
    content = bytes(i - 1 for i in ids)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.hex(" ").upper() + " …"
