"""d2l's recurrent chapters, run again, to compare the results with the published ones.

d2l trains on 10,000 letters of The Time Machine until the model has memorized them, and publishes the perplexity on
the same letters: exp of the mean loss over the last epoch. Here the perplexity on unseen text is added, that of the
last tenth of the book.

Published figures: zh edition, PyTorch, one GPU ("cuda:0").
"""

import math
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from segue_training.data.encoding import encode_corpus
from segue_training.errors import ConfigurationError
from segue_training.evaluation.evaluate import perplexity
from segue_training.evaluation.ngram import NgramModel
from segue_training.evaluation.sample import sample
from segue_training.recipes import TrainingConfig, recipe
from segue_training.train.run import training_data
from segue_training.train.trainer import Report, in_turn, train

PREFIXES: Final = ("time traveller", "traveller")
CONTINUED: Final = 50
"""Characters of a continuation."""
EPOCH: Final = 8
"""Minibatches of 32 x 35 in 10,000 letters."""
ORDERS: Final = 8
"""The highest order of the n-gram models."""


@dataclass(frozen=True)
class Row:
    """A model of the chapters."""

    name: str
    recipe: str
    published_perplexity: float | None = None
    published_speed: float | None = None
    """Tokens per second."""
    partition: Literal["sequential", "random"] = "sequential"

    @property
    def config(self) -> TrainingConfig:
        """Its training configuration."""
        return replace(recipe(self.recipe), partition=self.partition)


ROWS: Final = (
    Row("mlp", "d2l-mlp"),
    Row("rnn-scratch", "d2l-rnn-scratch", 1.0, 67_212.6),
    Row("rnn-scratch-random", "d2l-rnn-scratch", 1.5, 65_222.3, "random"),
    Row("rnn", "d2l-rnn", 1.3, 404_413.8),
    Row("gru-scratch", "d2l-gru-scratch", 1.1, 19_911.5),
    Row("gru", "d2l-gru", 1.0, 109_423.8),
    Row("lstm-scratch", "d2l-lstm-scratch", 1.3, 17_736.0),
    Row("lstm", "d2l-lstm", 1.1, 234_815.0),
    Row("deep-lstm", "d2l-deep-lstm", 1.0, 186_005.7),
)


@dataclass(frozen=True)
class Reproduced:
    """The results of a row."""

    row: Row
    training_perplexity: float
    validation_perplexity: float
    speed: float
    """Symbols per second over the whole training."""
    continuations: tuple[str, ...]
    """Of PREFIXES, with the likeliest character each time."""


@dataclass(frozen=True)
class Counted:
    """The results of an n-gram model of the same letters."""

    order: int
    training_perplexity: float
    validation_perplexity: float
    stored: int
    """Grams that occur in the text."""
    possible: int
    """|V|^n."""


def rows_named(names: tuple[str, ...]) -> tuple[Row, ...]:
    """Return the rows called `names`, or all rows. Raises ConfigurationError."""
    known = {row.name: row for row in ROWS}
    if wrong := [name for name in names if name not in known]:
        raise ConfigurationError(f"no row is called {wrong[0]!r} (rows: {', '.join(known)})")
    return tuple(known[name] for name in names) or ROWS


def reproduce(row: Row, source: str, seed: int, report: Report, steps: int | None = None) -> Reproduced:
    """Train `row` on the corpus `source`, usually d2l's The Time Machine. Raises CorpusError."""
    config = replace(row.config, seed=seed, steps=steps or row.config.steps)
    corpus = encode_corpus(source, config)
    losses = deque[float](maxlen=EPOCH)
    started = time.monotonic()
    trained = train(training_data(corpus), config, in_turn(report, lambda now: losses.append(now.loss)))
    seconds = time.monotonic() - started
    model, vocabulary = trained.model, corpus.vocabulary
    return Reproduced(
        row,
        math.exp(sum(losses) / len(losses)),
        perplexity(model, corpus.validation, vocabulary).perplexity,
        config.steps * config.batch * config.time / seconds,
        tuple(prefix + sample(model, vocabulary, prefix, length=CONTINUED, temperature=0) for prefix in PREFIXES),
    )


def count(source: str) -> tuple[Counted, ...]:
    """Return the results of n-gram models of the same letters, order by order. Raises CorpusError."""
    corpus = encode_corpus(source, ROWS[0].config)
    model = NgramModel.fit(corpus.training, ORDERS, len(corpus.vocabulary))
    figures = (np.exp(-model.log_probabilities(ids).mean(1)) for ids in (corpus.training, corpus.validation))
    return tuple(
        Counted(sizes.order, float(training), float(validation), sizes.stored, sizes.possible)
        for sizes, training, validation in zip(model.parameters(), *figures, strict=True)
    )
