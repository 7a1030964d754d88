"""What the NVIDIA driver of this host says of itself.

ONNX Runtime names neither a missing driver nor an old one as such: it logs what it could not load and takes the CPU.
"""

import ctypes
from typing import Final

_LIBRARY: Final = "libcuda.so.1"
"""It comes with the driver, never with CUDA: a container gets it from its host."""
_FIRST_DRIVERS: Final = {12: 525, 13: 580}
"""The first driver for each major version of CUDA."""


def why_no_gpu(major: int) -> str:
    """Return why programs for CUDA `major` cannot use a GPU here, and the remedy; empty if they can."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        return (
            f"there is no NVIDIA driver here ({error}); "
            "install it on the host, and give a container the GPU (docker run --gpus all)"
        )
    version, count = ctypes.c_int(), ctypes.c_int()
    if status := driver.cuDriverGetVersion(ctypes.byref(version)):
        return f"the NVIDIA driver does not tell its version: {_meaning(driver, status)}"
    if version.value < 1000 * major:
        return _too_old(version.value, major)
    if status := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver cannot be used: {_meaning(driver, status)}; nvidia-smi shows what it can see"
    return "" if count.value else "the NVIDIA driver finds no GPU; nvidia-smi shows what it can see"


def _too_old(version: int, major: int) -> str:
    has = f"{version // 1000}.{version % 1000 // 10}"
    first = _FIRST_DRIVERS.get(major)
    remedy = f"to {first} or newer" if first else f"to one for CUDA {major}"
    return f"the NVIDIA driver is for CUDA {has}, and onnxruntime needs CUDA {major}; update the host's driver {remedy}"


def _meaning(driver: ctypes.CDLL, status: int) -> str:
    """Return the driver's own words for a status."""
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    return f"{text.value.decode() if text.value else 'unknown error'} (CUDA error {status})"
