"""MLP, RNN, GRU and LSTM of equal size, trained alike and measured by distance."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import fmean

import torch

from segue_training.models import Architecture
from segue_training.studies.agreement.accuracy import accuracy
from segue_training.studies.agreement.config import ARCHITECTURES, CURRICULA, AgreementConfig, Curriculum
from segue_training.studies.agreement.training import parameters, train


@dataclass(frozen=True)
class Trial:
    """A model to train and measure."""

    curriculum: Curriculum
    architecture: Architecture
    seed: int


@dataclass(frozen=True)
class Outcome:
    """The result of a trial."""

    trial: Trial
    hidden: int
    parameters: int
    accuracies: tuple[float, ...]
    """At each of the configuration's distances, from 0 to 1."""


@dataclass(frozen=True)
class Results:
    """All outcomes, in the order of `trials`."""

    config: AgreementConfig
    outcomes: tuple[Outcome, ...]

    def of(self, curriculum: Curriculum, architecture: Architecture) -> tuple[Outcome, ...]:
        """Return the outcomes of one kind, one for each seed."""
        kind = curriculum, architecture
        return tuple(o for o in self.outcomes if (o.trial.curriculum, o.trial.architecture) == kind)

    def means(self, curriculum: Curriculum, architecture: Architecture) -> tuple[float, ...]:
        """Return the mean accuracy over the seeds, at each distance."""
        return tuple(map(fmean, zip(*(o.accuracies for o in self.of(curriculum, architecture)), strict=True)))


Report = Callable[[Outcome], None]


def trials(config: AgreementConfig) -> list[Trial]:
    """Return all trials of the study."""
    seeds = range(config.seed, config.seed + config.repeats)
    return [Trial(*trial) for trial in product(CURRICULA, ARCHITECTURES, seeds)]


def run(config: AgreementConfig, report: Report, *, processes: int = 1) -> Results:
    """Train and measure every model; `report` is called with each outcome.

    A trial uses one thread, so that results do not depend on the number of processes. Raises Diverged.
    """
    outcomes = []
    with _outcomes(config, processes) as stream:
        for outcome in stream:
            report(outcome)
            outcomes.append(outcome)
    return Results(config, tuple(outcomes))


def run_trial(trial: Trial, config: AgreementConfig) -> Outcome:
    """Train one model and measure it. Raises Diverged."""
    model = train(trial.architecture, trial.curriculum, trial.seed, config)
    accuracies = [accuracy(model, d, pairs=config.pairs, seed=trial.seed) for d in config.distances]
    return Outcome(trial, model.config.hidden, parameters(model), tuple(accuracies))


@contextmanager
def _outcomes(config: AgreementConfig, processes: int) -> Iterator[Iterator[Outcome]]:
    """Yield an iterator over the outcomes, in the order of the trials."""
    work = partial(run_trial, config=config)
    if processes == 1:
        with _one_thread():
            yield map(work, trials(config))
    else:
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, fresh, initializer=_begin_worker) as pool:
            yield pool.map(work, trials(config))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches every process; only the first reports it
    torch.set_num_threads(1)
