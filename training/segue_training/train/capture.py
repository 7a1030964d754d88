"""A function of tensors, recorded once as a CUDA graph and replayed.

A model from scratch launches thousands of small kernels a step, and a GPU finishes each sooner than the host can launch
the next. A graph launches all of them at once. What it costs: the kernels, their sizes and the addresses of their
tensors are those of the recording. Hence

    inputs      are copied to buffers that stay in place
    outputs     are overwritten by the next call
    the rest    (weights, the scale of the loss) must stay in place, and no number may be read on the host
    dropout     draws from the seed and the offset that PyTorch's generator has at each replay

The first calls run as they would without a graph, which lets libraries allocate and choose what they need.
"""

from collections.abc import Callable
from typing import Final, Protocol

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]

WARM_UP: Final = 3
"""Calls before the one that is recorded, as PyTorch's documentation advises."""


class CaptureError(Exception):
    """A function cannot be recorded. The message is CUDA's."""


class Graph(Protocol):
    """Records what a function does on a device."""

    def warm_up(self, run: Callable[[], Tensors]) -> Tensors:
        """Run as a later recording will; return the outputs."""

    def record(self, run: Callable[[], Tensors]) -> Tensors:
        """Record `run`, which is not executed; return where `replay` will leave its outputs. Raises CaptureError."""

    def replay(self) -> None:
        """Do what was recorded."""


class CudaGraph:
    """A CUDA graph of the current device."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # the default one cannot be recorded
        self._graph = torch.cuda.CUDAGraph()

    def warm_up(self, run: Callable[[], Tensors]) -> Tensors:
        """Run on the stream of the recording, between what was launched before and what comes after."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = run()
        current.wait_stream(self._stream)
        return outputs

    def record(self, run: Callable[[], Tensors]) -> Tensors:
        """Record `run`. The thread that pins minibatches may go on, hence the error mode."""
        current = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                outputs = run()
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # an end that fails leaves the recording's stream
            raise CaptureError(str(error).partition("\n")[0]) from error
        return outputs

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()


class Captured:
    """`function`, recorded by `graph` and replayed. Call it with tensors of the same shapes each time.

    The inputs may be on any device; the buffers are on `device`. If the recording fails, `failed` is told why, once,
    and the function goes on being called.
    """

    def __init__(
        self,
        function: Callable[..., Tensors],
        graph: Graph,
        device: torch.device,
        failed: Callable[[CaptureError], None],
    ) -> None:
        self._function = function
        self._graph: Graph | None = graph
        self._device = device
        self._failed = failed
        self._calls = 0
        self._buffers: Tensors = ()
        self._outputs: Tensors | None = None

    def __call__(self, inputs: Tensors) -> Tensors:
        """Return the outputs, which the next call may overwrite."""
        if not self._buffers:
            self._buffers = tuple(torch.empty_like(each, device=self._device) for each in inputs)
        for buffer, each in zip(self._buffers, inputs, strict=True):
            buffer.copy_(each, non_blocking=True)
        self._calls += 1
        if self._graph is None:
            return self._run()
        if self._calls <= WARM_UP:
            return self._graph.warm_up(self._run)
        return self._replayed(self._graph)

    def _replayed(self, graph: Graph) -> Tensors:
        if self._outputs is None:
            try:
                self._outputs = graph.record(self._run)
            except CaptureError as error:
                self._graph = None
                self._failed(error)
                return self._run()
        graph.replay()
        return self._outputs

    def _run(self) -> Tensors:
        return self._function(*self._buffers)
