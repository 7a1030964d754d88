"""Fine-tuning: a new run that begins with the weights of another one.

The vocabulary, the way of reading and the architecture come with the weights. The optimizer, the schedule and the
counters begin anew. Characters that the vocabulary lacks are read as `<unk>`.
"""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from segue_training.data.encoding import EncodedCorpus
from segue_training.errors import ConfigurationError, CorpusError
from segue_training.recipes import TrainingConfig
from segue_training.settings import override
from segue_training.text.vocabulary import UNKNOWN_ID
from segue_training.train.checkpoint import Checkpoint, serialized
from segue_training.train.run_weights import load_run
from segue_training.train.train_state import Base

ALLOWED_UNKNOWN: Final = 1.0
"""Percent of a text that may be outside the vocabulary."""

INHERITED: Final = (
    *("hidden", "embedding", "layers", "architecture", "window"),
    *("normalization", "alphabet", "documents", "minimum_count"),
)
"""Settings that come with the weights."""


@dataclass(frozen=True)
class Start:
    """The weights that a run begins with."""

    run: Path
    checkpoint: Checkpoint
    sentence: str
    """Which weights they are, if the run has not ended; else ""."""
    allowed_unknown: float
    """Percent."""

    def base(self) -> Base:
        """Return what the new run records of it."""
        checkpoint = self.checkpoint
        sha256 = hashlib.sha256(serialized(checkpoint.weights)).hexdigest()
        run = os.fsencode(self.run).decode(errors="replace")
        return Base(run, checkpoint.corpus.name, checkpoint.steps, sha256)


def load_start(run: Path, allowed_unknown: float | None = None) -> Start:
    """Read the kept weights of `run`, finished or not. Raises CheckpointError."""
    loaded = load_run(run)
    allowed = ALLOWED_UNKNOWN if allowed_unknown is None else allowed_unknown
    return Start(run, loaded.checkpoint, loaded.sentence, allowed)


def tuning_config(start: Start, recipe: TrainingConfig | None, assignments: Sequence[str]) -> TrainingConfig:
    """Return the settings of a run from `start`: the recipe's, or else those of the run that it came from.

    Raises ConfigurationError for an assignment that would change what comes with the weights.
    """
    before = start.checkpoint.training
    inherited = {name: getattr(before, name) for name in INHERITED}
    config = override(replace(recipe or before, **inherited, preparation="none"), assignments)
    for name, value in inherited.items():
        if (given := getattr(config, name)) != value:
            raise ConfigurationError(
                f"{start.run} has {name}={value}, which comes with its weights and cannot become {given}: "
                "leave it out, or train a new model without --from"
            )
    return config


def notes(start: Start, corpus: EncodedCorpus) -> tuple[str, ...]:
    """Say where the run begins. Raises CorpusError if the vocabulary lacks too much of `corpus`."""
    checkpoint, run = start.checkpoint, start.run
    weights = start.sentence or f"weights of step {checkpoint.steps:,}"
    first = f"from {run}, trained on {checkpoint.corpus.name}: {weights}"
    unknown, symbols = int((corpus.ids == UNKNOWN_ID).sum()), len(corpus.ids)
    if unknown == 0:
        return (first,)
    percent = 100 * unknown / symbols
    told = f"{unknown:,} of {symbols:,} characters ({percent:.2g} %) are not in the vocabulary of {run}"
    if percent > start.allowed_unknown:
        raise CorpusError(
            f"{told}, and {start.allowed_unknown:g} % are allowed: train a new model without --from, or read them as "
            f"<unk> with --allow-unknown {min(math.ceil(percent), 100)}"
        )
    return first, f"{told}: they are read as <unk>"
