"""The training loop: truncated backpropagation through time with a carried state.

Each step reads the next characters of every row, lowers their mean negative log-probability, and hands the
state, cut off from its gradient, to the next step (d2l, chapter "Implementation of Recurrent Neural Networks
from Scratch"). The same configuration, text and number of threads give the same weights, bit for bit.

Shapes: N characters of a text, B rows, T characters of a row in one step, L layers, H hidden units.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer

from charlm_training.batches import Minibatch, minibatches
from charlm_training.errors import Diverged
from charlm_training.evaluate import nats_in_rows
from charlm_training.models import Lstm, State
from charlm_training.recipes import TrainingConfig

WATCHED: Final = 32_768
"""Characters of the validation text on which progress is measured."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    loss: float
    """Mean nats per character over this step's minibatch."""
    validation: float | None
    """Nats per character of validation text, read in parallel rows; only after a step that measures it."""


@dataclass(frozen=True)
class Trained:
    """The best model of a run."""

    model: Lstm
    steps: int
    """Steps that it has seen."""


Report = Callable[[Progress], None]


def train(
    training_N: Tensor, validation_N: Tensor, vocabulary_size: int, config: TrainingConfig, report: Report
) -> Trained:
    """Train on `training_N` and keep the weights that did best on `validation_N` when progress was measured.

    `training_N` fills a step (`config.least_training_characters`) and `validation_N` has two characters or
    more. `report` is called after every step. PyTorch's global random state is left as it was. Raises Diverged
    for a loss that is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        run = _Run(vocabulary_size, config)
        return run.train(training_N, validation_N[:WATCHED], report)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the rate of step 0, 1, ...: a linear warm-up, then a constant or a cosine that ends at 0."""
    warmup = min(1.0, (step + 1) / (config.warmup + 1))
    if config.schedule == "constant":
        return config.learning_rate * warmup
    return config.learning_rate * warmup * (1 + math.cos(math.pi * step / config.steps)) / 2


class _Run:
    """A model on its way: its weights, its optimizer and the state of its rows."""

    def __init__(self, vocabulary_size: int, config: TrainingConfig) -> None:
        self.config = config
        self.model = new_model(vocabulary_size, config)
        self.optimizer = _optimizer(self.model, config)
        self.state = self.model.zero_state(config.batch)

    def train(self, training_N: Tensor, watched_N: Tensor, report: Report) -> Trained:
        best, best_nats, best_step = self._weights(), math.inf, 0
        for step, minibatch in enumerate(islice(self._minibatches(training_N), self.config.steps)):
            loss = self._step(step, minibatch)
            nats = self._measure(watched_N) if self._is_measured(step + 1) else None
            if nats is not None and nats < best_nats:
                best, best_nats, best_step = self._weights(), nats, step + 1
            report(Progress(step + 1, loss, nats))
        if best_step == 0:
            raise self._diverged("the validation loss", best_nats)
        self.model.load_state_dict(best)
        return Trained(self.model.eval(), best_step)

    def _minibatches(self, training_N: Tensor) -> Iterator[Minibatch]:
        config = self.config
        return minibatches(
            training_N,
            config.batch,
            config.time,
            reset_rate=config.reset_rate,
            unknown_rate=config.unknown_rate,
            generator=torch.Generator().manual_seed(config.seed),
        )

    def _step(self, step: int, minibatch: Minibatch) -> float:
        """Update the weights once; return the loss from before the update."""
        self.model.train()
        h_LBH, c_LBH = reset_rows(self.state, minibatch.keep_B)
        logits_BTV, h_LBH, c_LBH = self.model(minibatch.ids_BT, h_LBH, c_LBH)
        loss = cross_entropy(logits_BTV.flatten(0, 1), minibatch.targets_BT.flatten())
        self.state = h_LBH.detach(), c_LBH.detach()
        if not math.isfinite(loss.item()):
            raise self._diverged(f"the loss of step {step + 1}", loss.item())
        self._update(loss, learning_rate(step, self.config))
        return loss.item()

    def _update(self, loss: Tensor, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()

    def _is_measured(self, step: int) -> bool:
        """Say whether `step`, counted from 1, ends one of the run's `evaluations` parts."""
        parts, steps = self.config.evaluations, self.config.steps
        return step * parts // steps > (step - 1) * parts // steps

    def _measure(self, watched_N: Tensor) -> float:
        return nats_in_rows(self.model, watched_N, rows=min(self.config.batch, len(watched_N) - 1))

    def _diverged(self, what: str, value: float) -> Diverged:
        return Diverged(f"{what} is {value}: set a learning_rate below {self.config.learning_rate}")

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


def new_model(vocabulary_size: int, config: TrainingConfig) -> Lstm:
    """Return a model with random weights: PyTorch's own initialization, but for the forget gates' bias."""
    model = Lstm(config.model(vocabulary_size), config.dropout)
    model.set_forget_bias(config.forget_bias)
    if config.embedding == 0:
        nn.init.eye_(model.embedding.weight)
        model.embedding.weight.requires_grad = False
    return model


def reset_rows(state: State, keep_B: Tensor) -> State:
    """Return the state with the rows zeroed where `keep_B` is 0."""
    h_LBH, c_LBH = state
    return h_LBH * keep_B[:, None], c_LBH * keep_B[:, None]


def _optimizer(model: Lstm, config: TrainingConfig) -> Optimizer:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if config.optimizer == "sgd":
        return SGD(weights, config.learning_rate, weight_decay=config.weight_decay)
    return AdamW(weights, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True)
