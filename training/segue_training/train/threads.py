"""The threads of PyTorch's kernels."""

import os


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
