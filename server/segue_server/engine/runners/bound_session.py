"""A graph on a device, run with arrays at fixed addresses: one set of them for each number of rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from segue_server.engine.runners.accelerator import Accelerator, Buffer
from segue_server.engine.runners.onnx_session import Arrays
from segue_server.engine.runners.pools import PADDING_SLOT, Pools

_TYPES: Final = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
_OF_ROWS: Final = ("batch", "bias_rows")
"""Axes of a graph's inputs and outputs that are as long as there are rows."""
_OF_SLOTS: Final = ("before", "after")


class BoundSession:
    """Runs a graph of a fixed number of steps."""

    def __init__(self, graph: bytes, device: Accelerator, pools: Pools, sizes: Mapping[str, int]) -> None:
        """Load the graph; raises StartupError. `sizes`: of its other axes, by name."""
        self._session = device.open(graph)
        self._device, self._pools, self._sizes = device, pools, sizes
        self._bindings: dict[tuple[int, int, int], _Binding] = {}

    def run(self, bucket: int, feed: Mapping[str, NDArray[Any]], rows: int) -> Arrays:
        """Run `rows` rows, filled up to `bucket`; return the outputs of these rows, which the next run overwrites."""
        bias_rows = min(bucket, len(feed["bias"])) if "bias" in feed else 1
        key = (bucket, 1 if bias_rows == 1 else bucket, self._pools.generation)
        if key not in self._bindings:
            self._bindings = {kept: value for kept, value in self._bindings.items() if kept[-1] == key[-1]}
            sizes = {**self._sizes, "batch": bucket, "bias_rows": key[1]}
            self._bindings[key] = _Binding(self._session, self._device, self._pools, sizes)
        return self._bindings[key].run(feed, rows)


@dataclass(frozen=True)
class _Bound:
    """An input or output: its buffer, and the axis of its rows, if it has one."""

    buffer: Buffer
    axis: int | None

    def of_rows(self, rows: int) -> NDArray[Any]:
        """Return the part of the host's array that belongs to the first rows."""
        if self.axis is None:
            return self.buffer.staging
        return self.buffer.staging[(slice(None),) * self.axis + (slice(rows),)]


class _Binding:
    """The arrays of one number of rows."""

    def __init__(
        self, session: onnxruntime.InferenceSession, device: Accelerator, pools: Pools, sizes: Mapping[str, int]
    ) -> None:
        self._device = device
        binding = session.io_binding()
        self._inputs: dict[str, _Bound] = {}
        self._outputs: dict[str, _Bound] = {}
        for bind, declared, bound in (
            (binding.bind_ortvalue_input, session.get_inputs(), self._inputs),
            (binding.bind_ortvalue_output, session.get_outputs(), self._outputs),
        ):
            for each in declared:
                value = pools.value(each.name)
                if value is None:
                    bound[each.name] = _bound(device, each, sizes)
                    value = bound[each.name].buffer.inside
                bind(each.name, value)
        self._run = device.recorded(session, binding)

    def run(self, feed: Mapping[str, NDArray[Any]], rows: int) -> Arrays:
        for name, bound in self._inputs.items():
            bound.of_rows(rows)[...] = feed[name]
            if name in _OF_SLOTS:
                bound.buffer.staging[rows:] = PADDING_SLOT
        self._device.upload([bound.buffer for bound in self._inputs.values()])
        self._run()
        self._device.download([bound.buffer for bound in self._outputs.values()])
        return {name: bound.of_rows(rows) for name, bound in self._outputs.items()}


def _bound(device: Accelerator, declared: onnxruntime.NodeArg, sizes: Mapping[str, int]) -> _Bound:
    shape = [sizes[axis] if isinstance(axis, str) else axis for axis in declared.shape]
    of_rows = [i for i, axis in enumerate(declared.shape) if axis in _OF_ROWS and shape[i] == sizes["batch"]]
    return _Bound(device.buffer(shape, _TYPES[declared.type]), of_rows[0] if of_rows else None)
