"""A whole run: from an encoded corpus to a checkpoint, through stops and resumptions."""

import platform
import time
from importlib.metadata import version
from typing import Final

import torch

from segue_training.data.encoding import EncodedCorpus
from segue_training.errors import Diverged, Interrupted
from segue_training.evaluation.evaluate import validate
from segue_training.models import to_checkpoint
from segue_training.train.checkpoint import Checkpoint, CorpusRecord, Tools
from segue_training.train.distributed import ProcessGroup
from segue_training.train.interruption import StopRequest
from segue_training.train.run_spec import RunSpec
from segue_training.train.train_state import moment_files, moment_step, save_moment
from segue_training.train.trainer import Report, Trained, Trainer, TrainingData

SAVE_EVERY: Final = 60.0
"""Seconds of training that a crash may cost."""


def train(job: RunSpec, report: Report, world: ProcessGroup, save_every: float = SAVE_EVERY) -> Checkpoint | None:
    """Train on the first part of the corpus and validate on the rest; return the checkpoint in the first process.

    A moment is saved every `save_every` seconds. Raises ConfigurationError, CheckpointError, Diverged, and
    Interrupted after a signal: the run was saved then.
    """
    data = training_data(job.corpus)
    run = Trainer(data, job.origin.training, world)
    if job.moment is not None:
        run.restore(job.moment)
    try:
        with StopRequest() as stop:
            keeper = Checkpointer(job, world, stop, save_every)
            trained = run.train(report, keeper)
            keeper.save(run)  # validation takes a while, and may be interrupted
    except Diverged as error:
        raise Diverged(f"{error}{_remedy(job)}") from None
    return _checkpoint(job, data, trained) if world.is_first else None


class Checkpointer:
    """Saves moments of a run: every so often, and when it is asked to stop."""

    def __init__(self, job: RunSpec, world: ProcessGroup, stop: StopRequest, save_every: float) -> None:
        self._job = job
        self._world = world
        self._stop = stop
        self._save_every = save_every
        self._saved = time.monotonic()

    def __call__(self, run: Trainer) -> None:
        """Save `run` if it is time. Raises Interrupted if it is to stop."""
        world, stopped = self._world, self._stop.signal is not None
        if world.any(stopped or self._is_due()):
            self.save(run)

    def save(self, run: Trainer) -> None:
        """Save `run` now. Raises Interrupted if it is to stop."""
        world, stopped = self._world, self._stop.signal is not None
        moment = run.moment()
        if world.is_first:
            save_moment(self._job.folder, self._job.origin, moment)
        self._saved = time.monotonic()
        if world.any(stopped):
            raise self._interrupted(moment.progression.step)

    def _is_due(self) -> bool:
        return self._world.is_first and time.monotonic() - self._saved >= self._save_every

    def _interrupted(self, step: int) -> Interrupted:
        number = self._stop.signal
        name = "another process" if number is None else number.name
        return Interrupted(
            f"stopped by {name} after step {step}; go on with: segue train --resume {self._job.folder}", number or 15
        )


def tools() -> Tools:
    """Return what this process trains with."""
    return Tools(version("segue"), platform.python_version(), str(torch.__version__), torch.get_num_threads())


def training_data(corpus: EncodedCorpus) -> TrainingData:
    """Return what a loop reads of `corpus`."""
    vocabulary = corpus.vocabulary
    return TrainingData(corpus.training, corpus.validation, len(vocabulary), vocabulary.line_feed)


def _checkpoint(job: RunSpec, data: TrainingData, trained: Trained) -> Checkpoint:
    config, corpus = job.origin.training, job.corpus
    model = trained.model.cpu()
    return Checkpoint(
        model=model.config,
        vocabulary=corpus.vocabulary,
        normalization=config.normalization,
        begin=corpus.vocabulary.begin,
        documents=config.documents,
        corpus=CorpusRecord(corpus.name, corpus.sha256, corpus.characters),
        recipe=job.origin.recipe,
        training=config,
        steps=trained.steps,
        validation=validate(model, data.training, data.validation, corpus.vocabulary, config.documents),
        history=trained.history,
        tools=tools(),
        weights=to_checkpoint(model),
    )


def _remedy(job: RunSpec) -> str:
    """Say how to go on from the last moment, if there is one."""
    if not (files := moment_files(job.folder)):
        return ""
    rate = job.origin.training.learning_rate / 2
    return f"; step {moment_step(files[-1])} is kept: segue train --resume {job.folder} --set learning_rate={rate:g}"
