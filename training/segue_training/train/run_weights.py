"""What a run has learned, at any time: finished, stopped, killed, or still in training.

A finished run has a checkpoint. Any other has train states, with its best weights so far and its latest. A folder can
hold both, for example after a finished run was continued and stopped: what the newest train state says of the run
decides whether the checkpoint is the run's result.
"""

import math
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from segue_training.data.corpus import find_corpus
from segue_training.data.encoding import EncodedCorpus, encode
from segue_training.data.file_names import text_to_name
from segue_training.errors import CheckpointError, ConfigurationError, CorpusError
from segue_training.evaluation.evaluate import validate
from segue_training.evaluation.perplexity import Perplexity, Validation
from segue_training.models import LanguageModel, build_model, to_checkpoint
from segue_training.output_folder import LOCK
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, CorpusRecord, Tools, is_checkpoint, load_checkpoint
from segue_training.train.train_state import (
    Evaluation,
    Origin,
    Progression,
    TrainState,
    read_record,
    read_train_state,
    tensors_below,
    train_state_files,
)

Choice = Literal["best", "latest"]
"""Which weights: those with the best validation loss so far, or those of the last saved step."""

UNMEASURED: Final = Validation(Perplexity(math.nan, 0, 0), Perplexity(math.nan, 0, 0))
"""The validation of weights that were taken out of a run before its end."""


@dataclass(frozen=True)
class RunWeights:
    """Weights of a run."""

    checkpoint: Checkpoint
    """With the validation UNMEASURED unless it is the run's result."""
    origin: Origin | None
    """What the run was started with; None for its result."""
    sentence: str
    """Which step the weights are of, and how far the run has come; "" for its result."""


def load_run(folder: Path, choice: Choice | None = None) -> RunWeights:
    """Return the result of the run in `folder`, or if it has none yet, its best weights so far.

    They are the latest if none were evaluated yet, or if the run keeps the last (`TrainingConfig.keep`). Raises
    CheckpointError if the folder holds neither, or what it holds is damaged, and ConfigurationError for a choice that
    it does not have.
    """
    record = read_record(folder)
    if has_only_begun(folder):
        raise CheckpointError(
            f"{folder} has saved nothing yet: it saves every minute, or as --save-every says, and when it is stopped"
        )
    if record is None or is_checkpoint(folder):
        checkpoint = load_checkpoint(folder)
        is_result = record is None or has_ended(checkpoint, *record)
        if is_result and (choice != "latest" or checkpoint.steps == checkpoint.taken):
            return RunWeights(checkpoint, None, "")
        if record is None:
            raise ConfigurationError(f"{folder} holds no train state, only the kept weights: leave --weights out")
    origin, state = read_train_state(folder)
    return _of_state(folder, origin, state, choice)


def has_only_begun(folder: Path) -> bool:
    """Return whether a run in `folder` has saved nothing yet."""
    return (folder / LOCK).exists() and not train_state_files(folder) and not is_checkpoint(folder)


def is_complete(folder: Path) -> bool:
    """Return whether `folder` holds the result of its run."""
    try:
        record = read_record(folder)
        checkpoint = load_checkpoint(folder)
    except CheckpointError:
        return False
    return record is None or has_ended(checkpoint, *record)


def has_ended(checkpoint: Checkpoint, origin: Origin, progression: Progression) -> bool:
    """Return whether `checkpoint` is the result of the run whose newest train state says this."""
    return (
        checkpoint.corpus.sha256 == origin.sha256
        and checkpoint.training == origin.training
        and (checkpoint.taken, checkpoint.history) == (progression.step, progression.history)
    )


def checkpoint_of(
    origin: Origin, model: LanguageModel, steps: int, taken: int, history: tuple[Evaluation, ...]
) -> Checkpoint:
    """Return the checkpoint of `model`, trained for `steps`, with its validation UNMEASURED."""
    config = origin.training
    vocabulary = Vocabulary(origin.characters, config.alphabet)
    return Checkpoint(
        model=model.config,
        vocabulary=vocabulary,
        normalization=config.normalization,
        begin=vocabulary.begin,
        documents=config.documents,
        corpus=CorpusRecord(origin.name, origin.sha256, origin.length),
        recipe=origin.recipe,
        training=config,
        steps=steps,
        taken=taken,
        validation=UNMEASURED,
        history=history,
        tools=_tools(),
        base=origin.base,
        weights=to_checkpoint(model),
    )


def validated(run: RunWeights, source: str | None = None) -> Checkpoint:
    """Return the checkpoint with its validation, measured now on the run's own text unless it is known.

    `source` is the text's new place if it has moved. Raises CorpusError if it is not found or is another text.
    """
    if run.origin is None:
        return run.checkpoint
    corpus = _own_text(run.checkpoint, run.origin, source)
    return replace(run.checkpoint, validation=validation_of(run.checkpoint.build_model(), corpus, run.origin))


def validation_of(model: LanguageModel, corpus: EncodedCorpus, origin: Origin) -> Validation:
    """Return the scores of `model` on the held-out part of its run's corpus."""
    return validate(model, corpus.training, corpus.validation, corpus.vocabulary, origin.training.documents)


def _own_text(checkpoint: Checkpoint, origin: Origin, source: str | None) -> EncodedCorpus:
    named = source or text_to_name(origin.source)
    try:
        corpus = encode(find_corpus(named, origin.field), origin.training, checkpoint.vocabulary, origin.bad_rows)
    except CorpusError as error:
        raise CorpusError(
            f"the run has no validation yet, which needs its text, {origin.source}: {error}; "
            "if it was moved, give its place with --text"
        ) from error
    if corpus.sha256 != origin.sha256:
        raise CorpusError(
            f"the run has no validation yet, which needs the text that it was started with, of SHA-256 "
            f"{origin.sha256[:12]}..., and {named} has {corpus.sha256[:12]}...: give that text with --text"
        )
    return corpus


def _of_state(folder: Path, origin: Origin, state: TrainState, choice: Choice | None) -> RunWeights:
    now, config = state.progression, origin.training
    measured = len(now.history) + (now.start is not None)
    if choice == "best" and not measured:
        raise ConfigurationError(f"no weights of {folder} were evaluated yet: leave --weights out for the latest")
    if choice == "best" and config.keep == "last":
        raise ConfigurationError(f"{folder} keeps its last weights (keep=last), so none are the best: use latest")
    kept = choice or ("best" if measured and config.keep == "best" else "latest")
    steps = now.best_step if kept == "best" else now.step
    why = f"the best of {measured} so far" if kept == "best" else "the latest" if measured else "none evaluated yet"
    where = "at" if (folder / LOCK).exists() else "stopped at"
    sentence = f"weights of step {steps:,} ({why}); the run {where} step {now.step:,} of {config.steps:,}"
    tensors = tensors_below("best/" if kept == "best" else "model/", state)
    model = _model(origin, tensors)
    return RunWeights(checkpoint_of(origin, model, steps, now.step, now.history), origin, sentence)


def _model(origin: Origin, tensors: dict[str, Tensor]) -> LanguageModel:
    config = origin.training
    model = build_model(config.model(len(origin.characters)), config.dropout, config.implementation)
    model.load_state_dict(tensors)
    return model.eval()


def _tools() -> Tools:
    """Return the versions and threads of this process."""
    return Tools(version("segue"), platform.python_version(), str(torch.__version__), torch.get_num_threads())
