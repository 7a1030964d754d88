"""A whole run: from an encoded corpus to a checkpoint, with stops and resumptions."""

import platform
import signal
import time
from collections.abc import Callable
from importlib.metadata import version
from types import FrameType
from typing import Any, Final, Self

import torch

from segue_training.data.encoding import EncodedCorpus
from segue_training.errors import Diverged, Interrupted
from segue_training.evaluation.evaluate import validate
from segue_training.models import to_checkpoint
from segue_training.train.checkpoint import Checkpoint, CorpusRecord, Tools
from segue_training.train.distributed import ProcessGroup
from segue_training.train.run_spec import RunSpec
from segue_training.train.train_state import save_train_state, step_of, train_state_files
from segue_training.train.trainer import Report, Trained, Trainer, TrainingData

SAVE_EVERY: Final = 60.0
"""Seconds of training that a crash may cost."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def train(spec: RunSpec, report: Report, group: ProcessGroup, save_every: float = SAVE_EVERY) -> Checkpoint | None:
    """Train and validate; return the checkpoint in the first process, None in the others.

    The train state is saved every `save_every` seconds. Raises ConfigurationError, CheckpointError, Diverged, and
    after a signal, once the train state is saved, Interrupted.
    """
    data = training_data(spec.corpus)
    trainer = Trainer(data, spec.origin.training, group)
    if spec.train_state is not None:
        trainer.load_train_state(spec.train_state)
    try:
        with StopRequest() as stop:
            checkpointer = Checkpointer(spec, group, stop, save_every)
            trained = trainer.train(report, checkpointer)
            checkpointer.save(trainer)  # validation takes a while and may be interrupted
    except Diverged as error:
        raise Diverged(f"{error}{_remedy(spec)}") from None
    return _checkpoint(spec, data, trained) if group.is_first else None


class StopRequest:
    """Within its context, records the first SIGINT or SIGTERM; a second one has its usual effect."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._record) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _record(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


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
            raise self._interrupted(state.progression.step)

    def _interrupted(self, step: int) -> Interrupted:
        number = self._stop.signal
        name = "another process" if number is None else number.name
        return Interrupted(
            f"stopped by {name} after step {step}; continue with: segue train --resume {self._spec.folder}",
            number or signal.SIGTERM,
        )


def tools() -> Tools:
    """Return the versions and threads of this process."""
    return Tools(version("segue"), platform.python_version(), str(torch.__version__), torch.get_num_threads())


def training_data(corpus: EncodedCorpus) -> TrainingData:
    """Return what a trainer reads of `corpus`."""
    vocabulary = corpus.vocabulary
    return TrainingData(corpus.training, corpus.validation, len(vocabulary), vocabulary.line_feed)


def _checkpoint(spec: RunSpec, data: TrainingData, trained: Trained) -> Checkpoint:
    config, corpus = spec.origin.training, spec.corpus
    model = trained.model.cpu()
    return Checkpoint(
        model=model.config,
        vocabulary=corpus.vocabulary,
        normalization=config.normalization,
        begin=corpus.vocabulary.begin,
        documents=config.documents,
        corpus=CorpusRecord(corpus.name, corpus.sha256, corpus.characters),
        recipe=spec.origin.recipe,
        training=config,
        steps=trained.steps,
        validation=validate(model, data.training, data.validation, corpus.vocabulary, config.documents),
        history=trained.history,
        tools=tools(),
        weights=to_checkpoint(model),
    )


def _remedy(spec: RunSpec) -> str:
    """Say how to continue from the last saved step, if there is one."""
    if not (files := train_state_files(spec.folder)):
        return ""
    rate = spec.origin.training.learning_rate / 2
    return f"; step {step_of(files[-1])} is saved: segue train --resume {spec.folder} --set learning_rate={rate:g}"
