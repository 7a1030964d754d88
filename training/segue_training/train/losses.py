"""Losses and gradient norms that stay on the device until those of several steps are read at once.

Whoever reads a number from a GPU waits until the GPU has done everything it was told before, and meanwhile tells it
nothing more. Read at every step, this leaves a GPU idle for as long as the host needs to prepare a step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepLoss:
    """What a step found before its update."""

    step: int
    """Counted from 1."""
    loss: float
    norm: float
    """Of the gradient, before clipping."""


class PendingLosses:
    """The losses of at most `most` steps that were not read yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._steps: list[int] = []
        self._figures: list[Tensor] = []

    @property
    def is_full(self) -> bool:
        """Whether they should be read now."""
        return len(self._steps) >= self._most

    def add(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Copy the loss and the gradient norm of `step`, both scalars, on their device."""
        self._steps.append(step)
        self._figures.append(torch.stack([loss.detach(), norm.detach()]))

    def read(self) -> list[StepLoss]:
        """Return the losses in the order of their steps and forget them. Waits for the device, once."""
        if not self._steps:
            return []
        figures = torch.stack(self._figures).tolist()
        read = [StepLoss(step, loss, norm) for step, (loss, norm) in zip(self._steps, figures, strict=True)]
        self._steps.clear()
        self._figures.clear()
        return read
