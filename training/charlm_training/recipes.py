"""Recipes: Python functions that return a training configuration, found by name."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from charlm_training.errors import ConfigurationError
from charlm_training.models import ModelConfig
from charlm_training.settings import Range, check_ranges


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides how a model is trained, but the text.

    A step is one update of the weights from `batch` rows of `time` characters.
    """

    # The model.
    hidden: Annotated[int, Range(1, 2**14)]
    embedding: Annotated[int, Range(0, 2**16)]
    """Width of a character's vector; 0 for one-hot vectors, which are not trained."""
    layers: Annotated[int, Range(1, 16)]

    # The steps.
    steps: Annotated[int, Range(1, 10**9)]
    batch: Annotated[int, Range(1, 2**14)]
    time: Annotated[int, Range(1, 2**14)]
    """Characters through which the gradient flows back; the state flows on."""
    learning_rate: Annotated[float, Range(1e-9, 100)]
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Annotated[int, Range(0, 10**9)] = 100
    """Steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Range(0, 10)] = 0.01
    clip: Annotated[float, Range(1e-9, 1e9)] = 1.0
    """Largest norm of the gradient of all weights together."""

    # What the model is spared and what it is shown.
    dropout: Annotated[float, Range(0, 0.99)] = 0.0
    forget_bias: Annotated[float, Range(-10, 10)] = 1.0
    reset_rate: Annotated[float, Range(0, 1)] = 0.02
    """Probability that a row begins a step from the zero state, in which every text that is served begins."""
    unknown_rate: Annotated[float, Range(0, 0.5)] = 1e-3
    """Probability that a character is shown as `<unk>`, which no training text holds by itself."""

    # The run.
    evaluations: Annotated[int, Range(1, 10**6)] = 8
    """How often progress is measured on validation text; the best weights of these are kept."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0

    def __post_init__(self) -> None:
        check_ranges(self)

    def model(self, vocabulary_size: int) -> ModelConfig:
        """Return the shape of the model for a vocabulary."""
        return ModelConfig(vocabulary_size, self.embedding or vocabulary_size, self.hidden, self.layers)

    @property
    def least_training_characters(self) -> int:
        """The training text that fills one step from any offset, with the character after it."""
        return self.batch * self.time + self.time + 1


def quick() -> TrainingConfig:
    """Train one layer in about three minutes of two CPU cores.

    An embedding as wide as the alphabet, not as the layer, halves the work of a step; the time that saves goes
    into many small batches at a high rate.
    """
    return TrainingConfig(
        hidden=320, embedding=64, layers=1, steps=3500, batch=16, time=64, learning_rate=8e-3, dropout=0.1
    )


def small() -> TrainingConfig:
    """Train a tiny model in a few seconds: to try the tools, not to read its text."""
    return TrainingConfig(
        hidden=96, embedding=32, layers=1, steps=300, batch=16, time=32, learning_rate=1e-2, warmup=20
    )


def d2l_lstm() -> TrainingConfig:
    """Train as d2l's chapter "Long Short-Term Memory": one-hot input, 256 units, 4,000 steps of plain SGD.

    Here it sees the whole text with its case and punctuation, not 10,000 letters, and is measured on text
    that it has not seen.
    """
    return TrainingConfig(
        hidden=256,
        embedding=0,
        layers=1,
        steps=4000,
        batch=32,
        time=35,
        learning_rate=1.0,
        optimizer="sgd",
        schedule="constant",
        warmup=0,
        weight_decay=0.0,
        forget_bias=0.0,
    )


RECIPES: Final[Mapping[str, Callable[[], TrainingConfig]]] = {
    "quick": quick,
    "small": small,
    "d2l-lstm": d2l_lstm,
}


def recipe(name: str) -> TrainingConfig:
    """Return the configuration of the recipe called `name`. Raises ConfigurationError."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        suggestion = f"; did you mean {close[0]}?" if close else ""
        raise ConfigurationError(f"no recipe is called {name!r}{suggestion} (recipes: {', '.join(RECIPES)})")
    return RECIPES[name]()
