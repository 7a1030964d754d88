"""How well a model predicts a text: log-probabilities and perplexity.

Perplexity is exp(-(1/n) sum ln P(x_t | x_<t)) over n scored characters: the geometric mean of 1/P. It is 1
for a model that is always certain and right, V for one that knows nothing, and infinite where a character
that came was held impossible (d2l, chapter "Recurrent Neural Networks").

Shapes: N characters of a text, T of a chunk, B rows, V vocabulary, L layers, H hidden units.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from charlm_training.models import Lstm, State
from charlm_training.vocabulary import UNKNOWN_ID

CHUNK: Final = 1024
"""Characters for which activations are held at a time."""

WARM_UP: Final = 4096
"""Characters of the training text that are read before the validation text is scored in a carried state."""


@dataclass(frozen=True)
class Perplexity:
    """What scoring a text came to."""

    nats: float
    """Mean negative log-probability of a character, in nats."""
    characters: int
    """How many were scored: of a text from its beginning all but the first, which is read only."""
    unknown: int
    """How many of them are outside the vocabulary, and scored as `<unk>`."""

    @property
    def perplexity(self) -> float:
        """exp(nats)."""
        return math.exp(self.nats) if self.nats < 700 else math.inf  # noqa: PLR2004 - where exp overflows

    @property
    def bits(self) -> float:
        """Bits per character."""
        return self.nats / math.log(2)


@dataclass(frozen=True)
class Validation:
    """The whole validation text, scored in one pass each way."""

    fresh: Perplexity
    """From the zero state, as a session of the service begins."""
    carried: Perplexity
    """From the state that reading the end of the training text leaves."""


@torch.inference_mode()
def score_text(model: Lstm, ids_N: Tensor, state: State, chunk: int = CHUNK) -> tuple[Tensor, State]:
    """Return ln P of each of ids_N[1:] as float32 [N - 1], and the state before the last character.

    ids_N[0] is read, not scored. To score a text in parts, begin each part with the last character of the one
    before, and its state. Activations take the memory of `chunk` characters, whatever the text's length.
    """
    model.eval()
    (h_LBH, c_LBH), parts = state, [torch.zeros(0)]
    for start in range(0, len(ids_N) - 1, chunk):
        ids_T = ids_N[start : start + chunk + 1]
        logits_BTV, h_LBH, c_LBH = model(ids_T[None, :-1], h_LBH, c_LBH)
        parts.append(-cross_entropy(logits_BTV[0], ids_T[1:], reduction="none"))
    return torch.cat(parts), (h_LBH, c_LBH)


def perplexity(model: Lstm, ids_N: Tensor) -> Perplexity:
    """Score a text from the zero state."""
    log_probabilities, _ = score_text(model, ids_N, model.zero_state())
    return _perplexity(log_probabilities, ids_N[1:])


def validate(model: Lstm, training_N: Tensor, validation_N: Tensor) -> Validation:
    """Score the whole validation text fresh and carried."""
    before_N = training_N[-WARM_UP:]
    log_probabilities, _ = score_text(model, torch.cat([before_N, validation_N]), model.zero_state())
    carried = _perplexity(log_probabilities[-len(validation_N) :], validation_N)
    return Validation(perplexity(model, validation_N), carried)


@torch.inference_mode()
def nats_in_rows(model: Lstm, ids_N: Tensor, rows: int) -> float:
    """Return the mean nats of a text cut into `rows` that are read side by side, each from the zero state.

    Much faster than `perplexity` and a little too high: good enough to watch progress.
    """
    model.eval()
    columns = (len(ids_N) - 1) // rows
    ids_BC = ids_N[: rows * columns].view(rows, columns)
    targets_BC = ids_N[1 : rows * columns + 1].view(rows, columns)
    (h_LBH, c_LBH), total = model.zero_state(rows), 0.0
    for start in range(0, columns, CHUNK):
        targets_BT = targets_BC[:, start : start + CHUNK]
        logits_BTV, h_LBH, c_LBH = model(ids_BC[:, start : start + CHUNK], h_LBH, c_LBH)
        total += float(cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum"))
    return total / (rows * columns)


def _perplexity(log_probabilities: Tensor, targets: Tensor) -> Perplexity:
    nats = -float(log_probabilities.double().mean())
    return Perplexity(nats, len(targets), int((targets == UNKNOWN_ID).sum()))
