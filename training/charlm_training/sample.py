"""Text drawn from a model, one character after the other."""

import torch

from charlm_training.models import Lstm
from charlm_training.vocabulary import UNKNOWN_ID, Vocabulary


@torch.inference_mode()
def sample(  # noqa: PLR0913 - the last three are the usual knobs
    model: Lstm, vocabulary: Vocabulary, prompt: str, *, length: int, temperature: float = 0.8, seed: int = 0
) -> str:
    """Return `length` characters that go on from `prompt`, which is not empty; `<unk>` is never drawn."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    ids = torch.from_numpy(vocabulary.encode(prompt))
    logits, *state = model(ids[None], *model.zero_state())
    drawn: list[int] = []
    for _ in range(length):
        scores = logits[0, -1] / temperature
        scores[UNKNOWN_ID] = -torch.inf
        chosen = torch.multinomial(scores.softmax(0), 1, generator=generator)
        drawn.append(int(chosen))
        logits, *state = model(chosen[None], *state)
    return vocabulary.decode(drawn)
