"""Dynamic evaluation: a model that keeps learning from the text it has just been scored on (Krause et al. 2018).

The text is cut into windows. Each is scored before the weights take a step on it, so that no symbol is scored by
weights that have seen it. The figure answers another question than a static one (how well the model predicts if it may
learn meanwhile), so report the two separately.

With g the gradient of a window's mean nats, and v the bias-corrected running mean of g^2, the step is

    w <- w - rate g / (sqrt(v) + eps)           all weights move by similar amounts (RMSprop)
    w <- w + decay (w_trained - w)              and decay towards the trained weights

Krause et al. estimate v on the training text, which may not be available in evaluation; here it is estimated on the
evaluated text. A copy of the model learns.

Shapes: N symbols of a text, M symbols read before it, T of a window.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from segue_training.evaluation.evaluate import as_tensor
from segue_training.evaluation.perplexity import Perplexity, Scored, first_character
from segue_training.models import LanguageModel, State
from segue_training.settings import Range, check_ranges
from segue_training.text.documents import document_spans
from segue_training.text.vocabulary import Documents, Ids, Vocabulary

_EPSILON: Final = 1e-8
_MEMORY: Final = 0.999
"""Decay rate of v."""


@dataclass(frozen=True)
class Adaptation:
    """How fast a model learns from what it reads.

    With the defaults a layer of 320 units gains 0.13 nats per character on tinyshakespeare's last tenth (1.502 to
    1.371) and takes six times as long. Neighbouring settings are as good; shorter windows gain 0.004 more and take
    twice as long.
    """

    rate: Annotated[float, Range(0, 1)] = 1e-3
    """How far each weight moves in a step; 0: static evaluation."""
    decay: Annotated[float, Range(0, 1)] = 0.002
    """The fraction of the way back to the trained weights in each step."""
    window: Annotated[int, Range(1, 2**14)] = 50
    """Symbols scored between two steps."""

    def __post_init__(self) -> None:
        check_ranges(self)


def adaptive_perplexity(
    model: LanguageModel,
    ids_N: Ids,
    vocabulary: Vocabulary,
    documents: Documents = "none",
    adaptation: Adaptation | None = None,
) -> Perplexity:
    """Score as `evaluate.perplexity` does, with a copy of `model` that learns meanwhile. Raises CorpusError.

    Documents are read in order, each from the zero state, with weights that learned from the previous ones.
    """
    adapting = _Adapting(model, adaptation or Adaptation())
    if documents == "lines":
        return Perplexity.of(adapting.documents(ids_N, vocabulary.encode("\n")), vocabulary)
    first = first_character(ids_N, vocabulary)
    return Perplexity.of(adapting.text(ids_N[:first], ids_N[first:]), vocabulary)


class _Adapting:
    """A copy of a model that learns while it reads."""

    def __init__(self, model: LanguageModel, adaptation: Adaptation) -> None:
        self._model = copy.deepcopy(model).eval()
        self._adaptation = adaptation
        self._weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        self._trained = [weight.detach().clone() for weight in self._weights]
        # Without its running mean of g, Adam is RMSprop with bias-corrected v.
        self._optimizer = Adam(self._weights, adaptation.rate, betas=(0.0, _MEMORY), eps=_EPSILON, fused=True)

    def documents(self, ids_N: Ids, line_feed_1: Ids) -> Iterator[Scored]:
        for start, length in document_spans(ids_N, int(line_feed_1[0])):
            yield from self.text(line_feed_1, np.concatenate([ids_N[start : start + length], line_feed_1]))

    def text(self, before_M: Ids, ids_N: Ids) -> Iterator[Scored]:
        """Score `ids_N` after reading `before_M` from the zero state."""
        state = self._model.zero_state(1)
        if len(before_M) > 1:
            state = self._read(before_M[:-1], state)
        last = before_M[-1:]
        for start in range(0, len(ids_N), self._adaptation.window):
            targets_T = ids_N[start : start + self._adaptation.window]
            nats_T, state = self._score(np.concatenate([last, targets_T[:-1]]), targets_T, state)
            yield -nats_T.detach().cpu().numpy(), targets_T
            self._learn(nats_T.mean())
            last = targets_T[-1:]

    @torch.no_grad()
    def _read(self, ids_T: Ids, state: State) -> State:
        _, *after = self._model(as_tensor(ids_T, state)[None], *state)
        return tuple(after)

    def _score(self, ids_T: Ids, targets_T: Ids, state: State) -> tuple[Tensor, State]:
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # cuDNN's gradients need training mode
            logits_BTV, *after = self._model(as_tensor(ids_T, state)[None], *state)
            nats_T = cross_entropy(logits_BTV[0], as_tensor(targets_T, state), reduction="none")
        return nats_T, tuple(part.detach() for part in after)

    def _learn(self, loss: Tensor) -> None:
        """Take one step down the gradient of `loss`, and one towards the trained weights."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        with torch.no_grad():
            for weight, trained in zip(self._weights, self._trained, strict=True):
                weight.lerp_(trained, self._adaptation.decay)
