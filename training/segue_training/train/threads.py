"""The threads of PyTorch's kernels."""

import os
from importlib import import_module


def share_cores() -> None:
    """Limit how long OpenMP's threads spin while they wait. Call before torch is imported.

    The default spins long: training is several times slower if another process needs a core. Without any spinning it
    is half as fast on idle cores.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def use_threads(threads: int | None) -> None:
    """Compute with `threads` threads; None leaves the default, one for each core."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def import_all() -> None:
    """Import what PyTorch's optimizers would import when the first is made, a thousand modules.

    Amid such an import a KeyboardInterrupt may be lost.
    """
    import_module("torch._dynamo")
