"""Where states stay: memory at fixed addresses, copies from and to the host, and runs that are recorded.

A device has its own rules, and breaking one gives wrong results rather than errors. A run sees only what was copied to
the device, at the addresses of the first run. What it gives is on the host only after a copy. Recording a CUDA graph
runs it several times. `SimulatedAccelerator` keeps these rules on the CPU, so that tests need no GPU.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import onnxruntime
from numpy.typing import DTypeLike, NDArray

from segue_server.engine.runners.onnx_session import CPU, CUDA, open_session
from segue_server.engine.runners.pinned_memory import pinned_zeros

_RECORDING_RUNS: Final = 3
"""How often ONNX Runtime runs a graph to record it: twice before, and while it records."""


@dataclass(frozen=True, eq=False)
class Buffer:
    """An array on a device, which never moves, and one on the host, from or to which it is copied."""

    inside: onnxruntime.OrtValue
    staging: NDArray[Any]


class Accelerator(Protocol):
    """Holds arrays and runs sessions. One thread at a time may use what belongs to one model."""

    provider: str

    def open(self, graph: bytes) -> onnxruntime.InferenceSession:
        """Load a graph; raises StartupError."""

    def buffer(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Return zeros."""

    def store(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        """Return a copy of `array` on the device."""

    def fetch(self, value: onnxruntime.OrtValue) -> NDArray[Any]:
        """Return a copy of `value` on the host."""

    def upload(self, buffers: Sequence[Buffer]) -> None:
        """Copy from the host."""

    def download(self, buffers: Sequence[Buffer]) -> None:
        """Copy to the host."""

    def recorded(self, session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding) -> Callable[[], None]:
        """Return what runs `session` with the arrays of `binding`: recorded at the first call, replayed afterwards."""


class SimulatedAccelerator:
    """The CPU, used by the rules of a device. It is slower than arrays alone, and of use for tests."""

    provider = CPU

    def open(self, graph: bytes) -> onnxruntime.InferenceSession:
        """Load a graph; raises StartupError."""
        return open_session(graph, CPU, 1)

    def buffer(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Return zeros."""
        return Buffer(self.store(np.zeros(shape, dtype)), np.zeros(shape, dtype))

    def store(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        """Return a copy of `array` on the device."""
        return onnxruntime.OrtValue.ortvalue_from_numpy(array.copy())

    def fetch(self, value: onnxruntime.OrtValue) -> NDArray[Any]:
        """Return a copy of `value` on the host."""
        return np.array(value.numpy())

    def upload(self, buffers: Sequence[Buffer]) -> None:
        """Copy from the host."""
        for buffer in buffers:
            np.copyto(buffer.inside.numpy(), buffer.staging)

    def download(self, buffers: Sequence[Buffer]) -> None:
        """Copy to the host."""
        for buffer in buffers:
            np.copyto(buffer.staging, buffer.inside.numpy())

    def recorded(self, session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding) -> Callable[[], None]:
        """Return what runs `session` with the arrays of `binding`, several times at the first call."""
        first = True

        def run() -> None:
            nonlocal first
            for _ in range(_RECORDING_RUNS if first else 1):
                session.run_with_iobinding(binding)
            first = False

        return run


class Gpu:
    """A GPU. Runs are recorded as CUDA graphs, by each thread anew, as ONNX Runtime keeps them for each thread."""

    provider = CUDA

    _alone: ClassVar = threading.Lock()
    """Held during each use of CUDA in this process: while a thread records, no other may allocate or copy."""

    def __init__(self, *, tf32: bool = False) -> None:
        """`tf32`: let float32 products round their operands to 10 bits."""
        self._settings = {"use_tf32": str(int(tf32)), "enable_cuda_graph": "1"}
        self._graphs = 0

    def open(self, graph: bytes) -> onnxruntime.InferenceSession:
        """Load a graph; raises StartupError."""
        with self._alone:
            return open_session(graph, CUDA, 1, settings=self._settings)

    def buffer(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Return zeros."""
        inside = self.store(np.zeros(shape, dtype))
        with self._alone:
            return Buffer(inside, pinned_zeros(shape, dtype))

    def store(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        """Return a copy of `array` on the device."""
        with self._alone:
            return onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0)

    def fetch(self, value: onnxruntime.OrtValue) -> NDArray[Any]:
        """Return a copy of `value` on the host."""
        with self._alone:
            return np.asarray(value.numpy())

    def upload(self, buffers: Sequence[Buffer]) -> None:
        """Copy from the host."""
        with self._alone:
            for buffer in buffers:
                buffer.inside.update_inplace(buffer.staging)

    def download(self, buffers: Sequence[Buffer]) -> None:
        """Copy to the host."""
        with self._alone:
            for buffer in buffers:
                onnxruntime.OrtValue.ortvalue_from_numpy(buffer.staging).update_inplace(buffer.inside)

    def recorded(self, session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding) -> Callable[[], None]:
        """Return what runs `session` with the arrays of `binding`: recorded at the first call, replayed afterwards."""
        self._graphs += 1
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(self._graphs))

        def run() -> None:
            with self._alone:
                session.run_with_iobinding(binding, options)

        return run
