"""Everything that determines the results of the agreement study."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from segue_training.errors import ConfigurationError
from segue_training.models import Architecture
from segue_training.settings import Range, check_ranges
from segue_training.studies.agreement.sentences import SHORTEST, is_distance

Curriculum = Literal["all at once", "growing"]
"""The distances a model is trained on: all of them at every step, or the short ones first."""

ARCHITECTURES: Final[tuple[Architecture, ...]] = ("mlp", "rnn", "gru", "lstm")
DESCRIPTIONS: Final[Mapping[Curriculum, str]] = {
    "all at once": "all distances from the first step on",
    "growing": "short distances first",
}
CURRICULA: Final = tuple(DESCRIPTIONS)


@dataclass(frozen=True)
class AgreementConfig:
    """The models, their training and the measurement; the same for all models."""

    # The models: one layer each.
    parameters: Annotated[int, Range(2_000, 10**8)] = 18_000
    """Maximum number of weights; it determines the layer's width."""
    embedding: Annotated[int, Range(1, 2**8)] = 16
    window: Annotated[int, Range(1, 2**6)] = 16
    """Characters that the MLP sees, including the current one."""
    forget_bias: Annotated[float, Range(-10, 10)] = 1.0
    """Of the LSTM."""

    # Training.
    steps: Annotated[int, Range(1, 10**9)] = 1500
    batch: Annotated[int, Range(1, 2**14)] = 32
    """Sentences in a step, all of one distance."""
    longest: Annotated[int, Range(4, 2**14)] = 64
    """Maximum distance in training; the logarithms of distances are uniform."""
    growth: Annotated[float, Range(0.01, 1)] = 0.6
    """Share of the steps after which the growing curriculum reaches the longest distance."""
    learning_rate: Annotated[float, Range(1e-9, 100)] = 7e-3
    """Of AdamW, with a linear warm-up and a cosine that ends at 0."""
    warmup: Annotated[int, Range(0, 10**9)] = 50
    clip: Annotated[float, Range(1e-9, 1e9)] = 1.0
    """Maximum norm of the gradient over all weights."""

    # Measurement.
    distances: tuple[int, ...] = (2, 4, 8, 14, 15, 32, 64, 128, 256)
    pairs: Annotated[int, Range(1, 10**6)] = 250
    """Sentences of each distance, each in both numbers."""
    repeats: Annotated[int, Range(1, 1000)] = 3
    """Models of each kind, with the seeds `seed`, `seed` + 1, ..."""
    seed: Annotated[int, Range(0, 2**62)] = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.distances:
            raise ConfigurationError("there are no distances to measure; give at least one")
        for distance in self.distances:
            if not is_distance(distance):
                raise ConfigurationError(
                    f"no gap has {distance} characters; a distance must be {SHORTEST}, or {SHORTEST + 2} or more"
                )
