"""The loss of a minibatch and its gradients: the part of a training step that runs on the device alone.

Shapes: B rows of this process, T symbols of each, V vocabulary.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from segue_training.data.batches import Minibatch
from segue_training.errors import ConfigurationError
from segue_training.models import LanguageModel, Recurrent, State
from segue_training.recipes import TrainingConfig
from segue_training.train.capture import Captured, CaptureError, CudaGraph, Graph, Tensors
from segue_training.train.distributed import ProcessGroup


class Gradients:
    """Computes the loss of a minibatch and sets the gradients of the weights, by a graph where there is one."""

    def __init__(
        self, model: LanguageModel, config: TrainingConfig, group: ProcessGroup, say: Callable[[str], None]
    ) -> None:
        """Share `model` among the processes; `say` is told of a graph that cannot be recorded.

        Raises ConfigurationError for a precision or a capture that is not possible here.
        """
        _check_precision(model, config, group)
        self._config = config
        self._group = group
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._model = group.share(_compiled(model, config))
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=_is_scaled(model, config, group))
        graph = graph_for(config, group, say)
        self._captured = Captured(self._full, graph, group.device, self._say_why_not) if graph else None
        self._say = say

    def __call__(self, minibatch: Minibatch, state: State) -> tuple[Tensor, State]:
        """Set the gradients, times the scaler's scale; return (loss, state after the minibatch).

        The loss is the sum of the nats of this process's targets, scaled so that the mean over processes is the mean
        per target. The returned tensors, on the device and detached, are valid until the next call.
        """
        own = minibatch.rows(self._group.rank, self._group.size)
        inputs = own.ids_BT, own.targets_BT, own.keep_B, *state
        if self._captured and self._is_full(minibatch):
            outputs = self._captured(inputs)
        else:
            device = self._group.device
            outputs = self._compute(minibatch.targets, *(each.to(device, non_blocking=True) for each in inputs))
        loss, *rest = outputs
        for weight, gradient in zip(self._weights, rest[len(state) :], strict=True):
            weight.grad = gradient
        return loss, tuple(rest[: len(state)])

    def _say_why_not(self, error: CaptureError) -> None:
        self._say(_not_captured(str(error)))

    def _is_full(self, minibatch: Minibatch) -> bool:
        """Return whether every row has the configured number of targets, which the graph was recorded for."""
        shape = self._config.batch, self._config.time
        return minibatch.ids_BT.shape == shape and minibatch.targets == shape[0] * shape[1]

    def _full(self, *inputs: Tensor) -> Tensors:
        return self._compute(self._config.batch * self._config.time, *inputs)

    def _compute(self, targets: int, ids_BT: Tensor, targets_BT: Tensor, keep_B: Tensor, *state: Tensor) -> Tensors:
        """Return (loss, *state, *gradients)."""
        for weight in self._weights:
            weight.grad = None
        self._model.train()
        with self._autocast():
            logits_BTV, *after = self._model(ids_BT, *reset_rows(state, keep_B))
            total = cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="sum")
        loss = total * self._group.size / targets
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        return loss.detach(), *(part.detach().float() for part in after), *gradients

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._config.precision == "float32":
            return nullcontext()
        return torch.autocast(self._group.device.type, getattr(torch, self._config.precision))


def reset_rows(state: State, keep_B: Tensor) -> State:
    """Return the state with the rows (axis 1) zeroed where `keep_B` is 0."""
    return tuple(part * keep_B[:, None] for part in state)


def graph_for(config: TrainingConfig, group: ProcessGroup, say: Callable[[str], None]) -> Graph | None:
    """Return what records a step, or None if none is wanted. Raises ConfigurationError if it is not possible.

    On its own ("auto"), a run on a GPU captures: launching the kernels of d2l's fused LSTM takes over three times as
    long as running them, and of one from scratch ten times.
    """
    wanted = config.capture == "yes"
    if config.capture == "no" or not (wanted or group.device.type == "cuda"):
        return None
    if (obstacle := _obstacle(config, group)) is None:
        return CudaGraph()
    if wanted:
        raise ConfigurationError(f"capture is 'yes', which {obstacle}: set capture=auto or capture=no")
    say(_not_captured(f"it {obstacle}"))
    return None


def _obstacle(config: TrainingConfig, group: ProcessGroup) -> str | None:
    """Say what a captured step would need and lacks."""
    if group.device.type != "cuda":
        return "needs a GPU"
    if group.size > 1:
        return f"is for one process, not {group.size}"
    if config.compile == "yes":
        return "does not go with compile=yes"
    if config.documents == "lines":
        return "needs windows of one size, which documents=lines has not"
    return None


def _not_captured(why: str) -> str:
    return f"training without a CUDA graph: {why}"


def _compiled(model: LanguageModel, config: TrainingConfig) -> nn.Module:
    return torch.compile(model) if config.compile == "yes" else model  # type: ignore[return-value]


def _is_scaled(model: LanguageModel, config: TrainingConfig, group: ProcessGroup) -> bool:
    """Return whether a factor must keep small gradients from vanishing.

    In float16 they would. Under autocast cuDNN's recurrent layers compute in float16 whatever type was asked for.
    """
    is_cudnn = isinstance(model, Recurrent) and group.device.type == "cuda"
    return config.precision == "float16" or (config.precision == "bfloat16" and is_cudnn)


def _check_precision(model: LanguageModel, config: TrainingConfig, group: ProcessGroup) -> None:
    if config.precision != "float32" and isinstance(model, Recurrent) and group.device.type == "cpu":
        raise ConfigurationError(
            f"precision is {config.precision!r}, which the fused layers support only on a GPU: "
            "set precision=float32 or implementation=scratch"
        )
