"""The processes that train one model together: usually one, or those that torchrun starts.

    torchrun --nproc-per-node 2 -m segue_training CORPUS ...

Each process reads its part of every minibatch's rows; the gradients are averaged by PyTorch's
DistributedDataParallel, so that N processes do together what one does with the same minibatch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, cast

import torch
import torch.distributed as dist
import torch.distributed.nn  # before there is a group: see join_world
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segue_training.errors import ConfigurationError

_PATIENCE: Final = timedelta(minutes=10)
"""How long a process waits for the others."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among `size`, 0 .. size - 1, and where it computes."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process reports and writes for all."""
        return self.rank == 0

    def check_batch(self, batch: int) -> None:
        """Raise ConfigurationError unless `batch` rows can be shared out evenly."""
        if batch % self.size:
            raise ConfigurationError(f"batch is {batch}; it must be a multiple of the {self.size} processes")

    def share(self, model: nn.Module) -> nn.Module:
        """Return `model` so that its backward pass averages the gradients of all processes."""
        if self.size == 1:
            return model
        return cast("nn.Module", DistributedDataParallel(model))

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of every process's `value`."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Say whether `flag` is set in any process."""
        return bool(flag) if self.size == 1 else bool(self.total(torch.tensor(float(flag), device=self.device)) > 0)

    def agreed(self, value: float) -> float:
        """Return the first process's `value`, so that all decide alike what depends on it."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return float(tensor)

    def gather_rows(self, part: Tensor) -> Tensor:
        """Return the states of all rows, where each process holds an equal part of them (axis 1)."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts, dim=1)

    def own_rows(self, whole: Tensor) -> Tensor:
        """Return this process's part of the states of all rows (axis 1).

        Some get fewer where the rows cannot be shared out evenly: those of the last documents of an epoch.
        """
        return whole.tensor_split(self.size, dim=1)[self.rank]


@contextmanager
def join_world(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, or be the only one. Raises ConfigurationError.

    `device` is "cpu", "cuda", or "auto": CUDA where there is one.

    The group's threads have to end before Python shuts down: one that then lets go of a tensor aborts the process. They
    live as long as anything refers to the group. torch.distributed.nn, which PyTorch's optimizers import, would do so
    for ever: it keeps the group that it finds when it is imported as the default value of an argument.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device)
    if size == 1:
        yield ProcessGroup(device=chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield ProcessGroup(dist.get_rank(), size, chosen)
    finally:
        dist.destroy_process_group()


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device is 'cuda', and PyTorch finds no CUDA device here; use cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
