"""How often a model holds the right verb to be the likelier one.

The model reads a sentence up to the verb, then the "w" that both verbs share, and stands before the character in
which they differ: "a" of "was", "e" of "were". The rest of either word follows from that one.

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
"""How both verbs begin."""

CHUNK: Final = 256
"""Sentences that are read side by side."""


def accuracy(model: LanguageModel, distance: int, *, pairs: int, seed: int) -> float:
    """Return the share of right choices on random sentences of that distance, from 0 to 1.

    The sentences come in pairs that differ in their number alone. A model that cannot tell the two apart is
    right about one of them: chance is exactly 0.5.
    """
    chance = random.Random(f"measure {seed} {distance}")  # noqa: S311 - no secret
    drawn = [sentence for _ in range(pairs) for sentence in draw_pair(distance, chance)]
    right = sum(count_right(model, drawn[at : at + CHUNK]) for at in range(0, len(drawn), CHUNK))
    return right / len(drawn)


def count_right(model: LanguageModel, sentences: Sequence[Sentence]) -> float:
    """Return in how many of the sentences the right verb is the likelier one; a tie counts one half."""
    margins_B = plural_margins(model, [sentence.before for sentence in sentences])
    signs_B = torch.tensor([1 if sentence.plural else -1 for sentence in sentences])
    return float(((margins_B * signs_B).sign() + 1).sum()) / 2


@torch.inference_mode()
def plural_margins(model: LanguageModel, before: Sequence[str]) -> Tensor:
    """Return ln P("e") - ln P("a") behind each text and the verb's "w", [B]: above 0 where the plural is likelier."""
    model.eval()
    ids_BT = encode([text + SHARED for text in before])
    logits_BTV, *_ = model(ids_BT, *model.zero_state(len(before)))
    last_B = torch.tensor([len(text) for text in before])
    logits_BV = logits_BTV[torch.arange(len(before)), last_B]
    singular, plural = VOCABULARY.encode(SINGULAR[len(SHARED)] + PLURAL[len(SHARED)]).tolist()
    margins_B: Tensor = logits_BV[:, plural] - logits_BV[:, singular]
    return margins_B
