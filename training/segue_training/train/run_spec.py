"""The specification of a run: new, from a corpus and a recipe, or resumed, from a run's folder."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from segue_training.data.encoding import EncodedCorpus, encode_corpus
from segue_training.data.file_names import name_to_text, text_to_name
from segue_training.errors import CheckpointError, ConfigurationError, CorpusError
from segue_training.recipes import TrainingConfig, check_resumable
from segue_training.settings import override
from segue_training.train.train_state import Origin, TrainState, read_train_state

RUNS: Final = Path("runs")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What to train and where to write it."""

    corpus: EncodedCorpus
    origin: Origin
    folder: Path
    train_state: TrainState | None = None
    """Where to resume; None for a new run."""


def begin_run(source: str, field: str | None, recipe: str, config: TrainingConfig, folder: Path | None) -> RunSpec:
    """Encode the corpus `source` for a new run in `folder`; None: a folder named after it. Raises CorpusError."""
    corpus = encode_corpus(source, config, field)
    _check_length(corpus, config)
    origin = Origin(name_to_text(source), field, recipe, config, corpus.vocabulary.characters, corpus.sha256)
    return RunSpec(corpus=corpus, origin=origin, folder=folder or RUNS / os.fsdecode(corpus.name.encode()))


def resume_run(folder: Path, step: int | None, source: str | None, assignments: tuple[str, ...]) -> RunSpec:
    """Resume the run in `folder` from its last saved step, or from `step`, with some settings changed.

    `source` is the corpus's new place if it has moved. Raises CheckpointError if the train state is missing or damaged
    or the text differs, and ConfigurationError for a setting that cannot change or fewer steps than were taken.
    """
    origin, train_state = read_train_state(folder, step)
    config = override(origin.training, assignments)
    check_resumable(origin.training, config)
    if config.steps != origin.training.steps:
        _check_steps(train_state.progression.step, config)
    source = source or text_to_name(origin.source)
    corpus = encode_corpus(source, config, origin.field)
    _check_same_corpus(origin, corpus)
    return RunSpec(
        corpus=corpus,
        origin=replace(origin, source=name_to_text(source), training=config),
        folder=folder,
        train_state=train_state,
    )


def _check_length(corpus: EncodedCorpus, config: TrainingConfig) -> None:
    """Raise CorpusError unless the corpus fills one step and leaves two symbols for validation."""
    if config.documents == "lines" and len(corpus.training) == 0:
        raise CorpusError("the training text holds no whole line: use a longer text or set a larger max_tokens")
    needed = 0 if config.documents == "lines" else config.least_training_symbols
    if len(corpus.training) < needed:
        raise CorpusError(
            f"the training text has {len(corpus.training)} symbols; this recipe needs {needed} "
            f"(batch {config.batch} x time {config.time}): use a longer text or set a smaller batch"
        )
    if len(corpus.validation) < 2:  # noqa: PLR2004 - one to read, one to score
        raise CorpusError(
            f"the validation text, the last tenth, has {len(corpus.validation)} symbols and needs 2: use a longer text"
        )


def _check_steps(taken: int, config: TrainingConfig) -> None:
    if config.steps <= taken:
        raise ConfigurationError(
            f"steps is {config.steps}, and the run has taken {taken}: set more, or resume earlier with --step"
        )


def _check_same_corpus(origin: Origin, corpus: EncodedCorpus) -> None:
    if corpus.vocabulary.characters != origin.characters:
        differ = sorted(set(corpus.vocabulary.characters) ^ set(origin.characters))
        raise CheckpointError(
            f"the run began with a vocabulary of {len(origin.characters)} entries, and this text has "
            f"{len(corpus.vocabulary)} ({len(differ)} differ, such as {differ[:1]}): "
            f"resume with the original text ({origin.source}), or start a new run"
        )
    if corpus.sha256 != origin.sha256:
        raise CheckpointError(
            f"the run began with a text of SHA-256 {origin.sha256[:12]}..., and this one has "
            f"{corpus.sha256[:12]}...: resume with the original text ({origin.source}), or start a new run"
        )
