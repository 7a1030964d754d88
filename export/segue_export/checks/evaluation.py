"""Evaluation of a checkpoint or an artifact on a text, compared with baselines."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from segue_training.data.encoding import EncodedCorpus, Reading
from segue_training.errors import ConfigurationError
from segue_training.evaluation.baselines import Baseline, baselines
from segue_training.evaluation.dynamic_evaluation import adaptive_perplexity
from segue_training.evaluation.evaluate import Reader, in_windows, validate
from segue_training.evaluation.perplexity import Perplexity, first_character
from segue_training.models import LanguageModel
from segue_training.text.vocabulary import Ids, Vocabulary
from segue_training.train.checkpoint import DOCUMENT, Checkpoint, is_checkpoint
from segue_training.train.run_weights import Choice, has_only_begun, load_run
from segue_training.train.train_state import train_state_files

from segue_export.artifact import MODEL_FILE, read_artifact
from segue_export.checks.exported_model import ExportedModel
from segue_export.errors import ModelsNotFound

WINDOW: Final = 128
"""Symbols after which the state is reset, to measure what carrying it gains."""


@dataclass(frozen=True)
class Subject:
    """A model to evaluate."""

    reader: Reader
    vocabulary: Vocabulary
    reading: Reading
    """How the model's texts are processed."""
    corpus_sha256: str
    """Of the text that it was trained and validated on."""
    learner: LanguageModel | None
    """The `reader` if its weights can be trained; None for an artifact."""
    sentence: str = ""
    """Which weights of a run they are that has not ended; else ""."""


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on a text, all of the same characters, except that `carried` scores one more."""

    part: Literal["whole", "validation"]
    """"validation": the text is the model's own corpus, and only its validation part is scored."""
    fresh: Perplexity
    """From the zero state, carried to the end; for documents, each from the zero state."""
    carried: Perplexity | None
    """From the state after the training text; None if that is unknown, and for documents."""
    windows: Perplexity | None
    """With the state reset every WINDOW symbols; None for documents."""
    dynamic: Perplexity | None
    """With a model that learns from what it was scored on; None unless requested."""
    baselines: tuple[Baseline, ...]


def is_run(folder: Path) -> bool:
    """Return whether `folder` holds a run: a checkpoint or train states, intact or not."""
    return is_checkpoint(folder) or bool(train_state_files(folder))


def is_artifact(folder: Path) -> bool:
    """Return whether `folder` holds an artifact, intact or not."""
    return (folder / MODEL_FILE).exists() and folder.resolve().name.isdecimal()


def load_subject(folder: Path, threads: int | None = None, choice: Choice | None = None) -> Subject:
    """Load the run or the artifact in `folder`; `choice`: which weights of a run.

    Raises CheckpointError, DamagedArtifact, ModelsNotFound if the folder is neither, or ConfigurationError for weights
    that it does not hold.
    """
    if is_run(folder) or has_only_begun(folder):
        run = load_run(folder, choice)
        return replace(checkpoint_subject(run.checkpoint), sentence=run.sentence)
    if is_artifact(folder):
        if choice is not None:
            raise ConfigurationError("--weights chooses among those of a run, and an artifact has one: leave it out")
        return _artifact(folder.resolve(), threads)
    raise ModelsNotFound(
        f"{folder} is neither a checkpoint (it has no {DOCUMENT}) nor an artifact (models/NAME/VERSION, "
        f"with {MODEL_FILE}); make them with segue train and segue export"
    )


def evaluate(
    subject: Subject, text: EncodedCorpus, training: EncodedCorpus | None = None, *, dynamic: bool = False
) -> Evaluation:
    """Score `text`, of the subject's own corpus only the validation part, with the subject and the baselines.

    The baselines learn from `training`, or else from the training part of the subject's own corpus. Raises
    ConfigurationError if an artifact should learn or `training` is `text` itself, and CorpusError if the text holds no
    character to score.
    """
    scored_N, before_N = held_out(text, subject.corpus_sha256)
    is_own, documents = text.sha256 == subject.corpus_sha256, subject.reading.documents
    training_N = _training(subject, text, training, before_N)  # first, as it may raise
    validation = validate(subject.reader, before_N, scored_N, subject.vocabulary, documents)
    return Evaluation(
        part="validation" if is_own else "whole",
        fresh=validation.fresh,
        carried=validation.carried if is_own and documents == "none" else None,
        windows=_in_windows(subject, scored_N) if documents == "none" else None,
        dynamic=_dynamic(subject, scored_N) if dynamic else None,
        baselines=baselines(training_N, scored_N, subject.vocabulary, documents),
    )


def check_is_text(source: str) -> None:
    """Raise ConfigurationError if `source`, given as a text, is the folder of a model."""
    if is_run(Path(source)) or is_artifact(Path(source)):
        raise ConfigurationError(
            f"{source} is a model, not a text: evaluate scores one MODEL on one TEXT; run it again for another model"
        )


def check_can_learn(subject: Subject) -> LanguageModel:
    """Return the model that can learn. Raises ConfigurationError for an artifact."""
    if subject.learner is None:
        raise ConfigurationError("an artifact cannot learn, so --dynamic needs a checkpoint: name the run's folder")
    return subject.learner


def checkpoint_subject(checkpoint: Checkpoint) -> Subject:
    """Return the subject for a checkpoint."""
    model = checkpoint.build_model()
    reading = Reading(checkpoint.normalization, checkpoint.training.preparation, checkpoint.documents)
    return Subject(model, checkpoint.vocabulary, reading, checkpoint.corpus.sha256, model)


def _artifact(folder: Path, threads: int | None) -> Subject:
    artifact = read_artifact(folder)
    manifest = artifact.manifest
    reading = Reading(manifest.normalization, manifest.corpus.preparation, manifest.documents)
    return Subject(
        ExportedModel(manifest, artifact.weights, threads), manifest.vocabulary, reading, manifest.corpus.sha256, None
    )


def held_out(text: EncodedCorpus, corpus_sha256: str) -> tuple[Ids, Ids]:
    """Return the ids to score with a model of that corpus, and the training text before them (empty if unknown)."""
    if text.sha256 == corpus_sha256:
        return text.validation, text.training
    return text.ids, text.ids[:0]


def _training(subject: Subject, text: EncodedCorpus, training: EncodedCorpus | None, before_N: Ids) -> Ids:
    """Return the ids that the baselines learn from, never the ones they are scored on."""
    if training is None:
        return before_N
    if training.sha256 == subject.corpus_sha256:
        return training.training
    if training.sha256 == text.sha256:
        raise ConfigurationError(f"--training-text {training.name} is TEXT itself: give a different text")
    return training.ids


def _in_windows(subject: Subject, scored_N: Ids) -> Perplexity:
    scored_N = scored_N[first_character(scored_N, subject.vocabulary) - 1 :]
    return Perplexity.of(in_windows(subject.reader, scored_N, WINDOW), subject.vocabulary)


def _dynamic(subject: Subject, scored_N: Ids) -> Perplexity:
    return adaptive_perplexity(check_can_learn(subject), scored_N, subject.vocabulary, subject.reading.documents)
