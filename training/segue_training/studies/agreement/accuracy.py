"""How often a model prefers the right verb.

The model reads a sentence up to the verb and the "w" that both verbs share. The next character decides: "a" of "was" or
"e" of "were".

Shapes: B sentences, T characters of each, V vocabulary.
"""

import random
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from segue_training.models import LanguageModel
from segue_training.studies.agreement.sentences import PLURAL, SINGULAR, VOCABULARY, Sentence, draw_pair, encode

SHARED: Final = "w"
"""The common beginning of both verbs."""

CHUNK: Final = 256
"""Sentences read side by side."""


def accuracy(model: LanguageModel, distance: int, *, pairs: int, seed: int) -> float:
    """Return the share of right choices on random sentences of that distance, from 0 to 1.

    The sentences come in pairs that differ only in number. A model that cannot distinguish them is right about one of
    each pair: chance is exactly 0.5.
    """
    chance = random.Random(f"measure {seed} {distance}")  # noqa: S311 - no secret
    drawn = [sentence for _ in range(pairs) for sentence in draw_pair(distance, chance)]
    right = sum(count_right(model, drawn[at : at + CHUNK]) for at in range(0, len(drawn), CHUNK))
    return right / len(drawn)


def count_right(model: LanguageModel, sentences: Sequence[Sentence]) -> float:
    """Return the number of sentences in which the right verb is more likely; a tie counts one half."""
    margins_B = plural_margins(model, [sentence.before for sentence in sentences])
    signs_B = torch.tensor([1 if sentence.plural else -1 for sentence in sentences])
    return float(((margins_B * signs_B).sign() + 1).sum()) / 2


@torch.inference_mode()
def plural_margins(model: LanguageModel, before: Sequence[str]) -> Tensor:
    """Return ln P("e") - ln P("a") after each text and the verb's "w", [B]: positive if the plural is more likely."""
    model.eval()
    ids_BT = encode([text + SHARED for text in before])
    logits_BTV, *_ = model(ids_BT, *model.zero_state(len(before)))
    last_B = torch.tensor([len(text) for text in before])
    logits_BV = logits_BTV[torch.arange(len(before)), last_B]
    singular, plural = VOCABULARY.encode(SINGULAR[len(SHARED)] + PLURAL[len(SHARED)]).tolist()
    margins_B: Tensor = logits_BV[:, plural] - logits_BV[:, singular]
    return margins_B
