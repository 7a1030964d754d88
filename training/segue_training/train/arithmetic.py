"""How PyTorch computes while a run trains: exact float32 products or TF32, any algorithm or deterministic ones.

These are switches of the whole process, and PyTorch's defaults are not uniform: TF32 is off for matrix products, but on
for cuDNN, and with it for the fused layers. All are set for as long as a run trains, and then set back.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Self

import torch
from torch.backends import cudnn

_WORKSPACE: Final = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""Without it, neither cuBLAS nor cuDNN's recurrent layers are deterministic. It is read at the first use of cuBLAS."""

_COMPACTED: Final = "RNN module weights are not part of single contiguous chunk of memory"
"""cuDNN joins the weights of a layer at each call, since dropped ones are new at each step. A replay does so anyway."""


@dataclass(frozen=True)
class _Switches:
    products: str
    """Of matrices in float32: "highest" is exact, "high" allows TF32."""
    cudnn_tf32: bool
    cudnn_deterministic: bool
    only_deterministic: bool

    @classmethod
    def now(cls) -> Self:
        products, only = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
        return cls(products, cudnn.allow_tf32, cudnn.deterministic, only)

    def set(self) -> None:
        torch.set_float32_matmul_precision(self.products)
        cudnn.allow_tf32 = self.cudnn_tf32
        cudnn.deterministic = self.cudnn_deterministic
        torch.use_deterministic_algorithms(self.only_deterministic)


@contextmanager
def arithmetic(tf32: Literal["no", "yes"], deterministic: Literal["no", "yes"]) -> Iterator[None]:
    """Compute with these settings for as long as the block runs.

    An operation that has no deterministic algorithm then raises RuntimeError.
    """
    before, only, short = _Switches.now(), deterministic == "yes", tf32 == "yes"
    if only:
        os.environ.setdefault(*_WORKSPACE)
    _Switches("high" if short else "highest", short, only, only).set()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _COMPACTED, UserWarning)
            yield
    finally:
        before.set()
