"""The threads of PyTorch's kernels."""

import os


def share_cores() -> None:
    """Let OpenMP's threads spin only briefly for each other. Call before torch is imported, which fixes it.

    By default they spin for long: where another process needs one of the cores, training becomes several times
    slower. Where they do not spin at all, it is half as fast on idle cores.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def use_threads(threads: int | None) -> None:
    """Compute with so many threads; None leaves it at one for each core."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
