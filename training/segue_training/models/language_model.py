"""What every language model here is: a shape, weights, and one way to be read.

Shapes: B rows, T characters of each, V vocabulary, L layers, H hidden units.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from segue_training.settings import Range, check_ranges

Architecture = Literal["lstm", "gru", "gru-reset-before", "rnn", "mlp"]

State = tuple[Tensor, ...]
"""All that a model remembers of a text: (h, c) of an LSTM, (h,) of the others. Rows are axis 1."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model; with a state dict of that shape it is the whole model."""

    vocabulary_size: Annotated[int, Range(2, 2**21)]
    embedding: Annotated[int, Range(1, 2**16)]
    hidden: Annotated[int, Range(1, 2**14)]
    layers: Annotated[int, Range(1, 16)]
    architecture: Architecture = "lstm"
    window: Annotated[int, Range(1, 2**10)] = 8
    """Characters that an MLP sees; the others carry a state instead."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Dropout:
    """Rates at which values are dropped in training mode; the others grow so that the mean stays.

    A unit that is dropped is dropped at every time step of a minibatch (Gal and Ghahramani 2016).
    """

    input: float = 0.0
    """Of the units of each embedded character."""
    between: float = 0.0
    """Of the units that one layer hands to the next."""
    output: float = 0.0
    """Of the units that the last layer hands to the output."""
    weight: float = 0.0
    """Of the recurrent weights (Merity et al. 2018)."""


class LanguageModel(nn.Module, ABC):
    """Reads ids and a state; returns the logits of each following character, and the state behind the last."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, ids_BT: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Read `ids_BT` (int64) on from the state; return (logits_BTV, *state).

        logits_BTV[b, t] scores the character after ids_BT[b, t].
        """

    @abstractmethod
    def zero_state(self, rows: int = 1) -> State:
        """Return the state in which every text begins, on the device of the weights."""


def dropped(x_BTH: Tensor, rate: float, *, training: bool) -> Tensor:
    """Return `x_BTH` with units dropped, each for the whole time."""
    if not training or rate == 0:
        return x_BTH
    keep_B1H = torch.empty(x_BTH.shape[0], 1, x_BTH.shape[2], device=x_BTH.device).bernoulli_(1 - rate)
    return x_BTH * (keep_B1H / (1 - rate))
