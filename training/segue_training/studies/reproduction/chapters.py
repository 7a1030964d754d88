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
from typing import Final

import numpy as np

from segue_training.data.encoding import encode_corpus
from segue_training.evaluation.evaluate import perplexity
from segue_training.evaluation.ngram import NgramModel
from segue_training.evaluation.sample import sample
from segue_training.recipes import TrainingConfig, recipe
from segue_training.studies.reproduction.rows import CORPUS, ROWS, Row
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
class Reproduced:
    """The results of a row."""

    row: Row
    training_perplexity: float
    validation_perplexity: float
    speed: float
    """Symbols per second over the whole training."""
    steps: int
    is_comparable: bool
    """Whether text and steps are d2l's, so that the published figures are about the same."""
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


def configuration(row: Row, seed: int = 0, steps: int | None = None) -> TrainingConfig:
    """Return the settings of `row`; `steps`: instead of d2l's."""
    config = recipe(row.recipe)
    return replace(config, partition=row.partition, seed=seed, steps=steps or config.steps)


def reproduce(row: Row, source: str, config: TrainingConfig, report: Report) -> Reproduced:
    """Train `row` on the corpus `source`, usually d2l's The Time Machine. Raises CorpusError."""
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
        config.steps,
        source == CORPUS and config.steps == recipe(row.recipe).steps,
        tuple(prefix + sample(model, vocabulary, prefix, length=CONTINUED, temperature=0) for prefix in PREFIXES),
    )


def count(source: str) -> tuple[Counted, ...]:
    """Return the results of n-gram models of the same letters, order by order. Raises CorpusError."""
    corpus = encode_corpus(source, configuration(ROWS[0]))
    model = NgramModel.fit(corpus.training, ORDERS, len(corpus.vocabulary))
    figures = (np.exp(-model.log_probabilities(ids).mean(1)) for ids in (corpus.training, corpus.validation))
    return tuple(
        Counted(sizes.order, float(training), float(validation), sizes.stored, sizes.possible)
        for sizes, training, validation in zip(model.parameters(), *figures, strict=True)
    )
