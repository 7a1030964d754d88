"""Host memory that a GPU reads and writes by itself: copies from other memory go through a buffer of the driver's."""

import ctypes
import logging
import math
import mmap
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_RUNTIMES: Final = ("libcudart.so.13", "libcudart.so.12")
"""CUDA's runtime by its names, the one that ONNX Runtime uses first; it is loaded with ONNX Runtime's provider."""

_log = logging.getLogger(__name__)


def pinned_zeros(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Return zeros in pages of their own, pinned for as long as the array is in use; not pinned where CUDA refuses."""
    count = math.prod(shape)
    pages = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    zeros = np.frombuffer(pages, dtype=dtype, count=count).reshape(shape)
    pin(zeros, pages)
    return zeros


def pin(array: NDArray[Any], owner: mmap.mmap) -> bool:
    """Pin an array that fills the pages of `owner`; return whether it is pinned."""
    runtime = _runtime()
    if runtime is None:
        return False
    address = ctypes.c_void_p(array.ctypes.data)
    status = runtime.cudaHostRegister(address, ctypes.c_size_t(len(owner)), ctypes.c_uint(0))
    if status:
        _log.warning("%d bytes of memory are not pinned: cudaHostRegister gave error %d", len(owner), status)
        return False
    weakref.finalize(owner, runtime.cudaHostUnregister, address)
    return True


@cache
def _runtime() -> ctypes.CDLL | None:
    for name in _RUNTIMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    _log.warning("copies from and to the GPU are slower: none of %s could be loaded", ", ".join(_RUNTIMES))
    return None
