"""A stand-in for CUDA's libraries: ONNX Runtime for GPUs works with it without a GPU, but computes nothing.

It lists its kernels, places nodes, and captures what it would launch. `load` must come before onnxruntime is imported,
in a process of its own. It needs a C compiler, and none of NVIDIA's packages.
"""

import ctypes
import importlib.util
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("stand_in.c")
_PROVIDERS: Final = ("libonnxruntime_providers_cuda.so", "libonnxruntime_providers_tensorrt.so")
_LIBRARY: Final = re.compile(rb"\0(lib(?:cu|nv)\w+\.so\.\d+)(?=\0)")
_FUNCTION: Final = re.compile(
    rb"\0(cu[A-Z]\w+|(?:__)?(?:cuda|cublas|cublasLt|cudnn|cufft|curand)[A-Z]\w+|create\w+_INTERNAL|"
    rb"get(?:Infer|NvOnnx|Plugin)\w+|initLibNvInferPlugins)(?=\0)"
)
_DEFINED: Final = re.compile(r"\b(\w+)\([^;{}]*\) \{")


@dataclass(frozen=True)
class StandIn:
    """The loaded stand-in."""

    library: ctypes.CDLL

    def forget(self) -> None:
        """Forget the calls that were captured."""
        self.library.stand_in_forget()

    def captured(self) -> list[str]:
        """Return the calls captured since, other than launches of kernels; the first is "capture"."""
        self.library.stand_in_captured.restype = ctypes.c_char_p
        calls: bytes = self.library.stand_in_captured()
        return calls.decode().split("\n")[:-1]


def load() -> StandIn:
    """Build and load the libraries; raises RuntimeError where onnxruntime-gpu is not installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    binaries = b"".join(path.read_bytes() for path in _providers())
    libraries = sorted({name.decode() for name in _LIBRARY.findall(binaries)} | {"libcudnn.so.9"})
    with tempfile.TemporaryDirectory() as folder:
        built = _build(Path(folder), _source(binaries), libraries)
        # Global, so that one copy answers for all of them; loaded, so that theirs are not looked for.
        loaded = [ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for path in built]
    return StandIn(loaded[0])


def _providers() -> list[Path]:
    found = importlib.util.find_spec("onnxruntime")
    folder = Path(found.origin).parent / "capi" if found and found.origin else Path()
    paths = [folder / name for name in _PROVIDERS]
    if missing := [path.name for path in paths if not path.exists()]:
        raise RuntimeError(f"the installed onnxruntime lists no CUDA kernels: it has no {missing[0]}")
    return paths


def _source(binaries: bytes) -> str:
    """Return the C code: what is written by hand, and a function that only succeeds for each other one."""
    by_hand = _SOURCE.read_text()
    names = {name.decode() for name in _FUNCTION.findall(binaries)}
    names |= {name.removeprefix("__") for name in names}  # a name that ends another is not stored apart
    return by_hand + "".join(_succeeding(name) for name in sorted(names - set(_DEFINED.findall(by_hand))))


def _succeeding(name: str) -> str:
    if "Create" in name:
        return f"int {name}(void **made) {{ *made = calloc(1, 64); return 0; }}\n"
    return f"long {name}(void) {{ return 0; }}\n"


def _build(folder: Path, source: str, libraries: list[str]) -> list[Path]:
    (folder / "stand_in.c").write_text(source)
    subprocess.run(["cc", "-c", "-fPIC", "-w", "stand_in.c"], cwd=folder, check=True)
    for name in libraries:
        subprocess.run(["cc", "-shared", f"-Wl,-soname,{name}", "-o", name, "stand_in.o"], cwd=folder, check=True)
    return [folder / name for name in libraries]
