"""Text sampled from a model, symbol by symbol.

A text continues a prompt; a document runs from a line feed to a line feed. Models of bytes give whole characters, with
U+FFFD for bytes that are not UTF-8.

Shapes: T symbols read at once, V vocabulary.
"""

import codecs
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Final, Self

import torch
from torch import Tensor

from segue_training.models import LanguageModel
from segue_training.text.vocabulary import UNKNOWN_ID, Documents, Vocabulary

LINE_FEED: Final = "\n"


@dataclass(frozen=True)
class Sampler:
    """How a model's texts begin and end."""

    vocabulary: Vocabulary
    begin: str
    """What stands in for an empty prompt."""
    documents: Documents = "none"

    @classmethod
    def of(cls, vocabulary: Vocabulary, documents: Documents) -> Self:
        """Return the sampler that starts texts as an empty prompt does."""
        return cls(vocabulary, vocabulary.begin, documents)

    def __call__(self, model: LanguageModel, length: int, *, temperature: float = 0.8, seed: int = 0) -> str:
        """Return `length` characters, or for documents as many whole lines as fit, but at least one.

        A first line longer than `length` is cut.
        """
        if self.documents == "none":
            return sample(model, self.vocabulary, self.begin, length=length, temperature=temperature, seed=seed)
        lines = sample_documents(model, self.vocabulary, longest=length, temperature=temperature, seed=seed)
        return LINE_FEED.join(_filling(lines, length))


def sample(  # noqa: PLR0913 - the last three are the usual knobs
    model: LanguageModel, vocabulary: Vocabulary, prompt: str, *, length: int, temperature: float = 0.8, seed: int = 0
) -> str:
    """Return `length` characters that continue `prompt`, which is not empty; `<unk>` is never sampled.

    Temperature 0 takes the likeliest symbol each time. The model's mode and PyTorch's global random state are left
    unchanged.
    """
    generator = torch.Generator().manual_seed(seed)
    with _evaluating(model):
        ids = _draw(model, vocabulary.encode(prompt), temperature, generator)
        return "".join(islice(_characters(ids, vocabulary), length))


def sample_documents(
    model: LanguageModel, vocabulary: Vocabulary, *, longest: int = 1000, temperature: float = 0.8, seed: int = 0
) -> Iterator[str]:
    """Yield lines endlessly, each from the zero state, without its line feed, cut after `longest` characters."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        with _evaluating(model):
            ids = _draw(model, vocabulary.encode(LINE_FEED), temperature, generator)
            line = takewhile(lambda character: character != LINE_FEED, _characters(ids, vocabulary))
            document = "".join(islice(line, longest))
        yield document


@torch.inference_mode()
def _draw(model: LanguageModel, prompt: object, temperature: float, generator: torch.Generator) -> Iterator[int]:
    """Yield the ids that follow `prompt`, endlessly."""
    device = next(model.parameters()).device
    read_1T, state = torch.as_tensor(prompt, device=device)[None], model.zero_state()
    while True:
        logits_BTV, *rest = model(read_1T, *state)
        chosen = _choose(logits_BTV[0, -1].float().cpu(), temperature, generator)
        yield int(chosen)
        read_1T, state = chosen.to(device).view(1, 1), tuple(rest)


def _choose(logits_V: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    logits_V[UNKNOWN_ID] = -torch.inf
    if temperature == 0:
        return logits_V.argmax()
    return torch.multinomial((logits_V / temperature).softmax(0), 1, generator=generator)


def _characters(ids: Iterable[int], vocabulary: Vocabulary) -> Iterator[str]:
    """Yield each character as soon as it is complete."""
    if vocabulary.alphabet == "characters":
        yield from (vocabulary.characters[i] for i in ids)
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for i in ids:
        yield from decoder.decode(vocabulary.characters[i].encode("latin-1"))


def _filling(lines: Iterable[str], length: int) -> Iterator[str]:
    """Yield the first of `lines`, and more while all of them, joined by line feeds, fit into `length`."""
    filled = 0
    for line in lines:
        filled += len(line) + 1
        if filled > length + 1 and filled > len(line) + 1:
            return
        yield line


@contextmanager
def _evaluating(model: LanguageModel) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
