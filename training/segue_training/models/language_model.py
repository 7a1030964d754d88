"""The interface of every language model: a shape, weights, and one forward pass.

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
"""The recurrent state: (h, c) of an LSTM, (h,) of the others. Rows are axis 1."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model; together with a state dict it defines the model."""

    vocabulary_size: Annotated[int, Range(2, 2**21)]
    embedding: Annotated[int, Range(1, 2**16)]
    hidden: Annotated[int, Range(1, 2**14)]
    layers: Annotated[int, Range(1, 16)]
    architecture: Architecture = "lstm"
    window: Annotated[int, Range(1, 2**10)] = 8
    """Characters that an MLP sees; the others ignore it."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Dropout:
    """Dropout rates in training mode; the kept values are scaled up to preserve the mean.

    A dropped unit is dropped at every time step of a minibatch (Gal and Ghahramani 2016).
    """

    input: float = 0.0
    """Of the embedding's units."""
    between: float = 0.0
    """Of the units between two layers."""
    output: float = 0.0
    """Of the last layer's units."""
    weight: float = 0.0
    """Of the recurrent weights (Merity et al. 2018)."""


class LanguageModel(nn.Module, ABC):
    """Reads ids and a state; returns the logits of each next character, and the final state."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, ids_BT: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Read `ids_BT` (int64) from the state; return (logits_BTV, *state).

        logits_BTV[b, t] scores the character after ids_BT[b, t].
        """

    @abstractmethod
    def zero_state(self, rows: int = 1) -> State:
        """Return the initial state of every text, on the device of the weights."""


def dropped(x_BTH: Tensor, rate: float, *, training: bool) -> Tensor:
    """Return `x_BTH` with units dropped, each at all time steps."""
    if not training or rate == 0:
        return x_BTH
    keep_B1H = torch.empty(x_BTH.shape[0], 1, x_BTH.shape[2], device=x_BTH.device).bernoulli_(1 - rate)
    return x_BTH * (keep_B1H / (1 - rate))
