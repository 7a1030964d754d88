"""A whole run: from an encoded corpus to a checkpoint, with stops and resumptions."""

import time
from collections.abc import Callable
from dataclasses import replace
from shlex import quote
from typing import Final

from segue_training.data.encoding import EncodedCorpus
from segue_training.errors import Diverged
from segue_training.train.checkpoint import Checkpoint
from segue_training.train.distributed import ProcessGroup
from segue_training.train.run_spec import RunSpec
from segue_training.train.run_weights import checkpoint_of, validation_of
from segue_training.train.stop import StopRequest, interrupted
from segue_training.train.train_state import save_train_state, step_of, train_state_files
from segue_training.train.trainer import Report, Trainer, TrainingData

SAVE_EVERY: Final = 60.0
"""Seconds of training that a crash may cost."""

Say = Callable[[str], None]
"""Called with a sentence about what is done next; the work after the last step takes a while."""


def train(
    spec: RunSpec, report: Report, group: ProcessGroup, save_every: float = SAVE_EVERY, say: Say = lambda _: None
) -> Checkpoint | None:
    """Train and validate; return the checkpoint in the first process, None in the others.

    The train state is saved every `save_every` seconds and after the last step. Raises ConfigurationError,
    CheckpointError, Diverged, and after a signal, once the train state is saved, Interrupted.
    """
    data = training_data(spec.corpus)
    trainer = Trainer(data, spec.origin.training, group, say=say)
    if spec.train_state is not None:
        trainer.load_train_state(spec.train_state)
    elif spec.start is not None:
        say(f"validation {trainer.begin_with(spec.start.checkpoint.weights):.3f} before the first step")
    try:
        with StopRequest() as stop:
            checkpointer = Checkpointer(spec, group, stop, save_every)
            trained = trainer.train(report, checkpointer)
            checkpointer.save(trainer)  # validation may be interrupted, and the run be continued after its end
    except Diverged as error:
        raise Diverged(f"{error}{_remedy(spec)}") from None
    if not group.is_first:
        return None
    say(f"validating on {len(data.validation):,} held-out {spec.origin.training.alphabet}")
    model = trained.model.cpu()
    checkpoint = checkpoint_of(spec.origin, model, trained.steps, trained.taken, trained.history)
    return replace(checkpoint, validation=validation_of(model, spec.corpus, spec.origin))


class Checkpointer:
    """Saves the train state at intervals and on a stop request. Call it after each step."""

    def __init__(self, spec: RunSpec, group: ProcessGroup, stop: StopRequest, save_every: float) -> None:
        self._spec = spec
        self._group = group
        self._stop = stop
        self._save_every = save_every
        self._saved = time.monotonic()

    def __call__(self, trainer: Trainer) -> None:
        """Save if an interval has passed or a stop was requested. Raises Interrupted for the latter."""
        is_due = self._group.is_first and time.monotonic() - self._saved >= self._save_every
        if self._group.any(is_due or self._stop.signal is not None):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now. Raises Interrupted if a stop was requested."""
        stopped = self._stop.signal is not None
        state = trainer.train_state()
        if self._group.is_first:
            save_train_state(self._spec.folder, self._spec.origin, state)
        self._saved = time.monotonic()
        if self._group.any(stopped):
            raise interrupted(self._stop.signal, self._spec.folder, state.progression.step)


def training_data(corpus: EncodedCorpus) -> TrainingData:
    """Return what a trainer reads of `corpus`."""
    vocabulary = corpus.vocabulary
    return TrainingData(corpus.training, corpus.validation, len(vocabulary), vocabulary.line_feed)


def _remedy(spec: RunSpec) -> str:
    """Say how to continue from the last saved step, if there is one."""
    if not (files := train_state_files(spec.folder)):
        return ""
    rate, folder = spec.origin.training.learning_rate / 2, quote(str(spec.folder))
    return f"; step {step_of(files[-1])} is saved: segue train --resume {folder} --set learning_rate={rate:g}"
