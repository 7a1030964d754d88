"""Everything that decides the results of the agreement task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from segue_training.errors import ConfigurationError
from segue_training.models import Architecture
from segue_training.settings import Range, check_ranges
from segue_training.studies.agreement.sentences import SHORTEST, is_distance

Curriculum = Literal["all at once", "growing"]
"""Which distances a model is trained on: all of them at every step, or at first the short ones."""

ARCHITECTURES: Final[tuple[Architecture, ...]] = ("mlp", "rnn", "gru", "lstm")
CURRICULA: Final[tuple[Curriculum, ...]] = ("all at once", "growing")
DESCRIPTIONS: Final[Mapping[Curriculum, str]] = {
    "all at once": "all distances from the first step on",
    "growing": "short distances first",
}


@dataclass(frozen=True)
class AgreementConfig:
    """What is compared, how it is trained, and how it is measured. All models share all of it."""

    # The models: one layer each.
    parameters: Annotated[int, Range(2_000, 10**8)] = 18_000
    """At most so many; the layer is as wide as they allow."""
    embedding: Annotated[int, Range(1, 2**8)] = 16
    window: Annotated[int, Range(1, 2**6)] = 16
    """Characters that the MLP sees: the last one read and those before."""
    forget_bias: Annotated[float, Range(-10, 10)] = 1.0
    """Of the LSTM."""

    # Their training.
    steps: Annotated[int, Range(1, 10**9)] = 1500
    batch: Annotated[int, Range(1, 2**14)] = 32
    """Sentences of a step, all of one distance."""
    longest: Annotated[int, Range(4, 2**14)] = 64
    """Distance up to which sentences are trained on; their logarithms are uniform."""
    growth: Annotated[float, Range(0.01, 1)] = 0.6
    """Share of the steps in which the growing curriculum reaches the longest distance."""
    learning_rate: Annotated[float, Range(1e-9, 100)] = 7e-3
    """Of AdamW, between a linear warm-up and a cosine that ends at 0."""
    warmup: Annotated[int, Range(0, 10**9)] = 50
    clip: Annotated[float, Range(1e-9, 1e9)] = 1.0
    """Largest norm of the gradient of all weights together."""

    # What is measured.
    distances: tuple[int, ...] = (2, 4, 8, 14, 15, 32, 64, 128, 256)
    pairs: Annotated[int, Range(1, 10**6)] = 250
    """Sentences of each distance, each in both numbers."""
    repeats: Annotated[int, Range(1, 1000)] = 3
    """Models of each kind, of the seeds `seed`, `seed` + 1, ..."""
    seed: Annotated[int, Range(0, 2**62)] = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.distances:
            raise ConfigurationError("there are no distances to measure; name one or more")
        for distance in self.distances:
            if not is_distance(distance):
                raise ConfigurationError(
                    f"no gap has {distance} characters; a distance must be {SHORTEST}, or {SHORTEST + 2} or more"
                )
