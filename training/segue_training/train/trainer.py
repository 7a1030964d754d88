"""The training loop: truncated backpropagation through time with a carried state.

Each step reads the next symbols of every row, lowers their mean negative log-probability, and passes the detached
state to the next step (d2l, chapter "Implementation of Recurrent Neural Networks from Scratch"). The same
configuration, text and number of threads give the same weights, bit for bit, even if the run is stopped and resumed.

A GPU works through a queue that the host fills. Nothing in a step makes the host wait for it: losses are read every few
steps (`losses`), and minibatches are made by another thread (`prefetch`); see `Pace`.

Shapes: N ids of a text, B rows, T symbols of a row in one step, V vocabulary, L layers, H hidden units.
"""

import copy
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from segue_training.data.batches import Minibatch, epoch
from segue_training.data.prefetch import prefetched
from segue_training.errors import ConfigurationError, Diverged
from segue_training.evaluation.evaluate import nats_in_documents, nats_in_rows
from segue_training.models import LanguageModel, build_model, from_checkpoint, initialize
from segue_training.models.convert import Weights
from segue_training.randomness import seed_for
from segue_training.recipes import TrainingConfig
from segue_training.text.documents import whole_documents
from segue_training.text.vocabulary import Ids
from segue_training.train.arithmetic import arithmetic
from segue_training.train.distributed import ProcessGroup
from segue_training.train.gradients import Gradients
from segue_training.train.losses import PendingLosses, StepLoss
from segue_training.train.schedule import learning_rate
from segue_training.train.train_state import Evaluation, Progression, TrainState, tensors_below

WATCHED: Final = 32_768
"""Symbols of the validation text that an evaluation scores."""


@dataclass(frozen=True)
class TrainingData:
    """A text as ids, split in two."""

    training: Ids
    """At least `config.least_training_symbols`."""
    validation: Ids
    """At least two symbols."""
    vocabulary_size: int
    line_feed: int
    """The id that ends a document."""


@dataclass(frozen=True)
class Pace:
    """How far the host may run ahead of the device. Results do not depend on it."""

    ahead: int = 0
    """Minibatches that another thread makes before their step; 0: none, without a thread."""
    losses: int = 1
    """Steps whose losses are read together, and thus after how many a loss that is not finite is noticed at last.

    They are also read before an evaluation and a save, so that nothing of a diverged run is kept.
    """

    @classmethod
    def on(cls, device: torch.device) -> "Pace":
        """Return the pace for `device`. A CPU has no queue, and a thread would take a core from it."""
        return cls(ahead=4, losses=16) if device.type == "cuda" else cls()


@dataclass(frozen=True)
class Progress:
    """What a step reports, a few steps later on a GPU."""

    step: int
    loss: float
    """Mean nats per symbol of the minibatch, before the update."""
    evaluation: Evaluation | None
    """None after most steps; see TrainingConfig.evaluations."""
    model: LanguageModel
    """As it is now; after `step` if there is an evaluation."""
    start: float | None = None
    """The validation loss before the first step, of a run that began with another's weights."""


@dataclass(frozen=True)
class Trained:
    """A model at the end of its run."""

    model: LanguageModel
    steps: int
    """Steps that its weights have been trained for."""
    taken: int
    """Steps that the run has taken."""
    history: tuple[Evaluation, ...]


Report = Callable[[Progress], None]
AfterStep = Callable[["Trainer"], None]
"""Called after every step but the last; may save the train state, and may raise to stop the run."""


class Trainer:
    """A model in training: its weights, optimizer, recurrent states of the rows, and counters."""

    def __init__(
        self,
        data: TrainingData,
        config: TrainingConfig,
        group: ProcessGroup | None = None,
        *,
        say: Callable[[str], None] = warnings.warn,
        pace: Pace | None = None,
    ) -> None:
        """Start at step 0; `say` is told of what does not go as configured. Raises ConfigurationError."""
        self.config = config
        self.progression = Progression()
        self._group = group or ProcessGroup()
        self._group.check_batch(config.batch)
        self._data = data
        self._pace = pace or Pace.on(self._group.device)
        self.model = new_model(data.vocabulary_size, config).to(self._group.device)
        self._gradients = Gradients(self.model, config, self._group, say)
        self._scaler = self._gradients.scaler
        self._optimizer = _optimizer(self.model, config)
        self._pending = PendingLosses(self._pace.losses)
        self._unreported: list[StepLoss] = []
        self._state = self.model.zero_state(config.batch // self._group.size)
        self._best = self._weights()
        self._started = time.monotonic()

    def train(self, report: Report, after_step: AfterStep) -> Trained:
        """Take the remaining steps. Raises Diverged if a loss or a gradient is not finite.

        PyTorch's global random state is left unchanged.
        """
        self._started = time.monotonic() - self.progression.seconds
        if not self.should_continue_training():  # resumed after its last step
            return self._finish()
        with torch.random.fork_rng(), self._arithmetic(), closing(self._minibatches()) as minibatches:
            for minibatch in minibatches:
                self.train_step(minibatch)
                evaluation = self._evaluate() if self._should_evaluate(self.progression.step) else None
                self._report(report, evaluation)
                if not self.should_continue_training():
                    return self._finish()
                after_step(self)
        raise AssertionError("epochs never end")

    def train_state(self) -> TrainState:
        """Return what `load_train_state` needs. All processes of the group must call it together.

        Raises Diverged if a loss was not finite, or the last update left weights that are not, which no loss has shown
        yet.
        """
        self._read_losses()
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self._best.items()}
        tensors |= {f"state/{i}": self._group.gather_rows(part) for i, part in enumerate(self._state)}
        for number, values in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in values.items()}
        if self._scaler.is_enabled():
            tensors |= {f"scaler/{name}": torch.tensor(v) for name, v in self._scaler.state_dict().items()}
        if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise self._diverged(f"{broken[0]} after step {self.progression.step}", math.nan)
        return TrainState(replace(self.progression, seconds=time.monotonic() - self._started), tensors)

    def begin_with(self, weights: Weights) -> float:
        """Start from `weights`, in the layout of checkpoints; return their validation loss.

        They are kept until an evaluation is better. Raises Diverged if the loss is not finite.
        """
        from_checkpoint(self.model, weights)
        self._best = self._weights()
        with self._arithmetic():
            start = self._group.agreed(self._measure())
        if not math.isfinite(start):
            raise self._diverged("the validation loss before the first step", start)
        self.progression = replace(self.progression, start=start)
        return start

    def load_train_state(self, train_state: TrainState) -> None:
        """Continue from `train_state`, of a run with the same data and configuration."""
        self.progression = train_state.progression
        self.model.load_state_dict(tensors_below("model/", train_state))
        self._best = tensors_below("best/", train_state)
        state = tensors_below("state/", train_state)
        self._state = tuple(self._group.own_rows(state[str(i)]).to(self._group.device) for i in range(len(state)))
        self._load_optimizer(train_state)
        if scaler := tensors_below("scaler/", train_state):
            self._scaler.load_state_dict({name: value.item() for name, value in scaler.items()})

    def _load_optimizer(self, train_state: TrainState) -> None:
        values: dict[int, dict[str, Tensor]] = {}
        for path, tensor in tensors_below("optimizer/", train_state).items():
            number, name = path.split("/")
            values.setdefault(int(number), {})[name] = tensor
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": values})

    def _minibatches(self) -> Generator[Minibatch]:
        """Yield the remaining minibatches, and count epochs."""
        now = self.progression
        with closing(prefetched(self._placed(now.epoch, now.index), self._pace.ahead)) as placed:
            for number, index, minibatch in placed:
                self.progression = replace(self.progression, epoch=number, index=index + 1)
                yield minibatch

    def _placed(self, begin: int, first: int) -> Iterator[tuple[int, int, Minibatch]]:
        """Yield (epoch, index, minibatch) from minibatch `first` of epoch `begin` on, without end.

        Another thread may run this: it changes nothing.
        """
        group, is_pinned = self._group, self._group.device.type == "cuda"
        for number in count(begin):
            start = first if number == begin else 0
            minibatches = epoch(self._data.training, self.config, number, self._data.line_feed)
            taken = start
            for index, minibatch in enumerate(islice(minibatches, start, None), start):
                if group.size > 1 and len(minibatch.keep_B) < self.config.batch:
                    continue  # the last documents of an epoch, which do not divide evenly
                taken += 1
                yield number, index, minibatch.pinned() if is_pinned else minibatch
            if taken == 0:
                raise ConfigurationError(
                    f"batch is {self.config.batch}, and the training text has fewer documents, too few to divide "
                    f"among {group.size} processes: set a smaller batch"
                )

    def train_step(self, minibatch: Minibatch) -> None:
        """Update the weights once. Raises Diverged if the loss of this or an earlier step was not finite."""
        now, group = self.progression, self._group
        torch.manual_seed(seed_for(self.config.seed, "step", now.step, group.rank))
        rows = len(minibatch.keep_B) // group.size
        if rows != self._state[0].shape[1]:  # the last group of documents may be smaller
            self._state = self.model.zero_state(rows)
        loss, self._state = self._gradients(minibatch, self._state)
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self._pending.add(now.step + 1, group.total(loss.clone()) / group.size, norm)
        if self._pending.is_full:
            self._read_losses()
        self._update(learning_rate(now.step, self.config))
        symbols = now.symbols + minibatch.targets
        self.progression = replace(self.progression, step=now.step + 1, symbols=symbols)

    def _read_losses(self) -> None:
        """Wait for the losses that were not read yet. Raises Diverged if one, or a gradient, is not finite."""
        for each in self._pending.read():
            if not math.isfinite(each.loss):
                raise self._diverged(f"the loss of step {each.step}", each.loss)
            if not self._scaler.is_enabled() and not math.isfinite(each.norm):  # an enabled scaler skips such a step
                raise self._diverged(f"the gradient of step {each.step}", each.norm)
            total, steps = self.progression.losses
            self.progression = replace(self.progression, losses=(total + each.loss, steps + 1))
            self._unreported.append(each)

    def _update(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def _report(self, report: Report, evaluation: Evaluation | None) -> None:
        """Report the steps whose losses were read; the evaluation is that of the last one."""
        reported, self._unreported = self._unreported, []
        for each in reported:
            measured = evaluation if each.step == self.progression.step else None
            report(Progress(each.step, each.loss, measured, self.model, self.progression.start))

    def _evaluate(self) -> Evaluation:
        """Score the watched text, and keep the weights if they are the best so far."""
        self._read_losses()
        now, (total, steps) = self.progression, self.progression.losses
        validation = self._group.agreed(self._measure())
        if not math.isfinite(validation):
            raise self._diverged(f"the validation loss after step {now.step}", validation)
        evaluation = Evaluation(
            step=now.step,
            symbols=now.symbols,
            seconds=time.monotonic() - self._started,
            training=total / steps,
            validation=validation,
            learning_rate=learning_rate(now.step - 1, self.config),
        )
        start = math.inf if now.start is None else now.start
        best = min((start, *(e.validation for e in now.history)))
        kept = next((e.validation for e in now.history if e.step == now.best_step), start)
        keeps = self.config.keep == "last" or evaluation.validation < kept
        if keeps:
            self._best = self._weights()
        self.progression = replace(
            now,
            losses=(0.0, 0),
            best_step=now.step if keeps else now.best_step,
            stale=0 if evaluation.validation < best else now.stale + 1,
            history=(*now.history, evaluation),
        )
        return evaluation

    def _measure(self) -> float:
        """Return the nats per symbol of the watched text."""
        watched_N, line_feed = self._data.validation[:WATCHED], self._data.line_feed
        if self.config.documents == "lines":
            whole_N = whole_documents(watched_N, line_feed)
            return nats_in_documents(self.model, whole_N if len(whole_N) else watched_N, line_feed)
        return nats_in_rows(self.model, watched_N, min(self.config.batch, len(watched_N) - 1))

    def _should_evaluate(self, step: int) -> bool:
        """Return whether `step`, counted from 1, ends one of the run's `evaluations` parts."""
        parts, steps = self.config.evaluations, self.config.steps
        return step * parts // steps > (step - 1) * parts // steps

    def should_continue_training(self) -> bool:
        """Return whether neither the steps nor the patience are used up."""
        return goes_on(self.progression, self.config)

    def _finish(self) -> Trained:
        model = copy.deepcopy(self.model)  # the last weights stay, so that the run can be continued
        model.load_state_dict(self._best)
        now = self.progression
        return Trained(model.eval(), now.best_step, now.step, now.history)

    def _diverged(self, what: str, value: float) -> Diverged:
        return Diverged(f"{what} is {value}: set a learning_rate below {self.config.learning_rate}")

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def _arithmetic(self) -> AbstractContextManager[None]:
        return arithmetic(self.config.tf32, self.config.deterministic)


def train(data: TrainingData, config: TrainingConfig, report: Report) -> Trained:
    """Train in this process, from the first step to the last."""
    return Trainer(data, config).train(report, lambda _: None)


def in_turn(*reports: Report) -> Report:
    """Return a report that calls each of `reports`."""

    def report(progress: Progress) -> None:
        for each in reports:
            each(progress)

    return report


def goes_on(now: Progression, config: TrainingConfig) -> bool:
    """Return whether a run that has come to `now` has neither its steps nor its patience used up."""
    return now.step < config.steps and not 0 < config.patience <= now.stale


def new_model(vocabulary_size: int, config: TrainingConfig) -> LanguageModel:
    """Return an untrained model, whose random weights are a function of the configuration."""
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(config.seed, "weights"))
        model = build_model(config.model(vocabulary_size), config.dropout, config.implementation)
        initialize(model, config.initialization, config.forget_bias, one_hot=config.embedding == 0)
    return model


def _optimizer(model: LanguageModel, config: TrainingConfig) -> Optimizer:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if config.optimizer == "sgd":
        return SGD(weights, config.learning_rate, weight_decay=config.weight_decay)
    return AdamW(weights, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True)
