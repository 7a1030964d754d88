"""The processes that train one model together: one, or those started by torchrun.

    torchrun --nproc-per-node 2 -m segue_training CORPUS ...

Each process reads its share of every minibatch's rows; PyTorch's DistributedDataParallel averages the gradients, so
that N processes do what one does with the same minibatch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, cast

import torch
import torch.distributed as dist
import torch.distributed.nn  # before the group exists: see join_process_group
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segue_training.errors import ConfigurationError

_TIMEOUT: Final = timedelta(minutes=10)
"""How long a process waits for the others."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process, number `rank` of `size`, and its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _shared: list[DistributedDataParallel] = field(default_factory=list, repr=False, compare=False)

    @property
    def is_first(self) -> bool:
        """Whether this process reports and writes for all."""
        return self.rank == 0

    def check_batch(self, batch: int) -> None:
        """Raise ConfigurationError unless `batch` rows divide evenly among the processes."""
        if batch % self.size:
            raise ConfigurationError(f"batch is {batch}; it must be a multiple of the {self.size} processes")

    def share(self, model: nn.Module) -> nn.Module:
        """Wrap `model` so that its backward pass averages the gradients of all processes."""
        if self.size == 1:
            return model
        self._shared.append(DistributedDataParallel(model))
        return cast("nn.Module", self._shared[-1])

    def end_sharing(self) -> None:
        """End the sharing of every model, whoever still refers to it."""
        for shared in self._shared:
            vars(shared).clear()

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of every process's `value`."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is set in any process."""
        return bool(flag) if self.size == 1 else bool(self.total(torch.tensor(float(flag), device=self.device)) > 0)

    def wait(self) -> None:
        """Wait until every process has come here."""
        self.any(flag=False)

    def agreed(self, value: float) -> float:
        """Return the first process's `value`, so that all processes decide alike."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return float(tensor)

    def gather_rows(self, part: Tensor) -> Tensor:
        """Return the states of all rows (axis 1), of which each process holds an equal part."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts, dim=1)

    def own_rows(self, whole: Tensor) -> Tensor:
        """Return this process's part of the states of all rows (axis 1).

        The parts may differ in size for the last documents of an epoch.
        """
        return whole.tensor_split(self.size, dim=1)[self.rank]


@contextmanager
def join_process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the processes started by torchrun, or be the only one. Raises ConfigurationError.

    `device` is "cpu", "cuda", or "auto": CUDA if available.

    The group's threads must end before Python shuts down: one that frees a tensor during shutdown aborts the process.
    They live as long as the group is referenced. torch.distributed.nn, which PyTorch's optimizers import, binds the
    group that exists at import time as a default argument and would keep it forever; hence the early import above.

    The last reference must be Python's. Its end waits for the threads without the interpreter lock, which they may need
    to free a tensor; the end of a shared model's reducer waits with it, forever. An error refers to the model; hence
    `end_sharing`.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device)
    if size == 1:
        yield ProcessGroup(device=chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_TIMEOUT)
    last_reference = dist.group.WORLD
    group = ProcessGroup(dist.get_rank(), size, chosen)
    try:
        yield group
    finally:
        group.end_sharing()
        dist.destroy_process_group()
        del last_reference


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device is 'cuda', and PyTorch finds no CUDA device here; use cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
