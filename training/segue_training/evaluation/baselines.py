"""The baselines of a model: the uniform distribution, n-gram models and compressors, on the same text.

All are in nats per character, so that they compare with the model's (see `perplexity`).

Shapes: N ids of a text, O orders.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from segue_training.evaluation.compressors import COMPRESSORS, compressed_nats
from segue_training.evaluation.ngram import NgramModel
from segue_training.evaluation.perplexity import MeanNats, begins_character, first_character
from segue_training.text.vocabulary import Documents, Ids, Vocabulary

ORDERS: Final = 8
"""The highest order of the n-gram models."""

BLOCK: Final = 2**20
"""Symbols counted at a time."""

LONGEST_TRAINING: Final = 5_000_000
"""The baselines see at most this many symbols, the last ones of the training text: about 10 s and 0.5 GB."""


@dataclass(frozen=True)
class Baseline(MeanNats):
    """The score of a baseline."""

    name: str
    nats: float


def baselines(
    training_N: Ids, text_N: Ids, vocabulary: Vocabulary, documents: Documents = "none"
) -> tuple[Baseline, ...]:
    """Score the same characters of a text as `evaluate.perplexity`; n-gram models are omitted without a training text.

    The text has at least two characters. n-gram models read documents as one text; compressors read the whole text,
    including its first character.
    """
    training_N = training_N[-LONGEST_TRAINING:]
    if documents == "lines":
        line_feed = vocabulary.encode("\n").astype(text_N.dtype)  # keeps the text's dtype
        text_N, first = np.concatenate([line_feed, text_N]), 1
    else:
        first = first_character(text_N, vocabulary)
    uniform = math.log(len(vocabulary)) * (len(text_N) - first) / _characters(text_N[first:], vocabulary)
    return (
        Baseline("uniform", uniform),
        *_ngrams(training_N, text_N, first, vocabulary),
        *_compressed(training_N, text_N[first:] if documents == "lines" else text_N, vocabulary),
    )


def _ngrams(training_N: Ids, text_N: Ids, first: int, vocabulary: Vocabulary) -> tuple[Baseline, ...]:
    if len(training_N) < ORDERS:
        return ()
    model = NgramModel.fit(training_N, ORDERS, len(vocabulary))
    nats_O = np.zeros(ORDERS)
    for scores_ON, _ in model.in_blocks(text_N, first):
        nats_O -= scores_ON.sum(axis=1)
    characters = _characters(text_N[first:], vocabulary)
    return tuple(Baseline(f"{n}-gram", float(nats) / characters) for n, nats in enumerate(nats_O, start=1))


def _compressed(training_N: Ids, text_N: Ids, vocabulary: Vocabulary) -> tuple[Baseline, ...]:
    characters = _characters(text_N, vocabulary)
    return tuple(
        Baseline(name, compressed_nats(name, training_N, text_N, vocabulary) / characters) for name in COMPRESSORS
    )


def _characters(ids_N: Ids, vocabulary: Vocabulary) -> int:
    blocks = (ids_N[start : start + BLOCK] for start in range(0, len(ids_N), BLOCK))
    return sum(int(np.count_nonzero(begins_character(block, vocabulary))) for block in blocks)
