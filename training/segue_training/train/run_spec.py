"""The specification of a run: new, from a corpus and a recipe, or resumed, from a run's folder."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Final

from segue_training.data.corpus import find_corpus
from segue_training.data.encoding import EncodedCorpus, Policy, encode
from segue_training.data.file_names import name_to_text, text_to_name
from segue_training.errors import BadRow, CheckpointError, ConfigurationError, CorpusError
from segue_training.recipes import TrainingConfig, check_resumable
from segue_training.settings import override
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import is_checkpoint, load_checkpoint
from segue_training.train.fine_tuning import Start, notes
from segue_training.train.run_weights import has_ended
from segue_training.train.schedule import change
from segue_training.train.text_length import check_length
from segue_training.train.train_state import Origin, Progression, TrainState, read_train_state, train_state_files
from segue_training.train.trainer import goes_on

RUNS: Final = Path("runs")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What to train and where to write it."""

    corpus: EncodedCorpus
    origin: Origin
    folder: Path
    train_state: TrainState | None = None
    """Where to resume; None for a new run."""
    start: Start | None = None
    """The weights that a new run begins with; None for random ones."""
    notes: tuple[str, ...] = ()
    """What the user should know before the first step."""


def default_folder(source: str, field: str | None) -> Path:
    """Return the folder of a new run on the corpus `source`. Raises CorpusError."""
    return RUNS / os.fsdecode(find_corpus(source, field).name.encode())


def begin_run(  # noqa: PLR0913 - what a command line says of a run
    source: str,
    field: str | None,
    recipe: str,
    config: TrainingConfig,
    folder: Path | None,
    *,
    start: Start | None = None,
    bad_rows: Policy = "stop",
) -> RunSpec:
    """Encode the corpus `source` for a new run in `folder`; None: a folder named after it.

    With `start`, the run begins with those weights and reads with their vocabulary. Raises CorpusError.
    """
    vocabulary = start.checkpoint.vocabulary if start else None
    if bad_rows == "skip" and field is None and config.documents == "none":
        raise ConfigurationError(
            "--bad-rows skip leaves lines out: give --field for JSON lines, or --documents lines for separate texts"
        )
    try:
        corpus = encode(find_corpus(source, field), config, vocabulary, bad_rows)
    except BadRow as row:
        if field is None and config.documents == "none":
            raise
        raise CorpusError(f"{row}; --bad-rows skip leaves such lines out") from None
    check_length(corpus, config)
    origin = Origin(
        source=name_to_text(source),
        field=field,
        recipe=recipe,
        training=config,
        characters=corpus.vocabulary.characters,
        sha256=corpus.sha256,
        name=corpus.name,
        length=corpus.characters,
        bad_rows=bad_rows,
        base=start.base() if start else None,
    )
    return RunSpec(
        corpus=corpus,
        origin=origin,
        folder=folder or RUNS / os.fsdecode(corpus.name.encode()),
        start=start,
        notes=notes(start, corpus) if start else (),
    )


def resume_run(  # noqa: PLR0913 - what a command line says of a run
    folder: Path,
    step: int | None,
    source: str | None,
    assignments: tuple[str, ...],
    more: int = 0,
    *,
    again: bool = False,
) -> RunSpec:
    """Resume the run in `folder` from its last saved step, or from `step`, with some settings changed.

    `source` is the corpus's new place if it has moved; `more` steps are added; with `again`, a run that has
    ended is validated again, for its report. Raises CheckpointError if the train
    state is missing or damaged or the text differs, and ConfigurationError for a setting that cannot change, fewer
    steps than were taken, or a run that has ended.
    """
    if is_checkpoint(folder) and not train_state_files(folder):
        raise CheckpointError(
            f"{folder} holds nothing to resume: its train state was not kept; "
            f"segue train TEXT --from {quote(str(folder))} begins a new run with its weights"
        )
    origin, train_state = read_train_state(folder, step)
    config = override(origin.training, assignments)
    config = replace(config, steps=config.steps + more)
    check_resumable(origin.training, config)
    _check_goes_on(folder, origin, config, train_state.progression, again=again)
    corpus = _own_corpus(folder, origin, source, config)
    _check_same_corpus(origin, corpus)
    note = change(train_state.progression.step, origin.training, config)
    origin = replace(
        origin,
        source=name_to_text(source) if source else origin.source,
        training=config,
        name=corpus.name,
        length=corpus.characters,
    )
    return RunSpec(corpus=corpus, origin=origin, folder=folder, train_state=train_state, notes=(note,) if note else ())


def _own_corpus(folder: Path, origin: Origin, source: str | None, config: TrainingConfig) -> EncodedCorpus:
    """Encode the run's corpus, with its own vocabulary if that came with its first weights."""
    vocabulary = Vocabulary(origin.characters, config.alphabet) if origin.base else None
    try:
        return encode(
            find_corpus(source or text_to_name(origin.source), origin.field), config, vocabulary, origin.bad_rows
        )
    except CorpusError as error:
        if source is not None:
            raise
        moved = f"if the text was moved: segue train NEWPATH --resume {quote(str(folder))}"
        raise CorpusError(f"{error}; {moved}") from error


def _check_goes_on(folder: Path, origin: Origin, config: TrainingConfig, now: Progression, *, again: bool) -> None:
    """Raise ConfigurationError for a run that has ended, unless it is given more to do."""
    if config.steps != origin.training.steps and config.steps <= now.step:
        raise ConfigurationError(
            f"steps is {config.steps}, and the run has taken {now.step}: set more, or resume earlier with --step"
        )
    if again or goes_on(now, config) or not _has_result(folder, origin, now):
        return
    if now.step < config.steps:
        raise ConfigurationError(
            f"{folder} ended at step {now.step:,}, after {now.stale} evaluations without a gain: "
            "add --set patience=0 to train it further"
        )
    raise ConfigurationError(
        f"{folder} has taken all its {now.step:,} steps: add --steps +{now.step} to train it as long again"
    )


def _has_result(folder: Path, origin: Origin, now: Progression) -> bool:
    """Return whether the run's checkpoint is written and intact."""
    try:
        return has_ended(load_checkpoint(folder), origin, now)
    except CheckpointError:
        return False


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
