"""What in a graph breaks its capture as a CUDA graph.

A captured run is replayed without the host: every replay launches the same kernels with the same shapes on the same
memory. ONNX Runtime refuses a graph with control flow or with a copy between host and device; nodes on the CPU are
allowed as long as they need no copy, as those that compute a shape from a shape. What a kernel reads on the host keeps
the value that it had in the capture.
"""

from collections.abc import Collection
from typing import Final

import onnx
from onnx import AttributeProto

from cuda_graphs.kernels import KernelTable, described

_MOST_JOINED: Final = 32
"""Inputs of a Concat: of more it copies the addresses from the host."""

_SHAPES: Final = ("Shape", "Size")
"""Their results are on the host, from shapes, which are known there."""

_UNKNOWN_SHAPES: Final = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Operators whose output has a shape that depends on values: the host waits for it."""


def obstacles(model: onnx.ModelProto, table: KernelTable, fixed: Collection[str] = ()) -> list[str]:
    """Return what breaks a capture of the graph, by node.

    `fixed`: inputs of the graph that are given on the host, and have one value in the capture and all its replays.
    """
    values = _HostValues(model.graph, table, fixed)
    found = []
    for node in model.graph.node:
        found += [f"{described(node)}: {problem}" for problem in (_obstacle(node), *values.misread(node)) if problem]
        values.follow(node)
    return found


def _obstacle(node: onnx.NodeProto) -> str:
    """Return why the operator itself cannot be captured, or nothing if it can."""
    if any(attribute.type in {AttributeProto.GRAPH, AttributeProto.GRAPHS} for attribute in node.attribute):
        return "control flow returns to the host"
    if node.op_type in _UNKNOWN_SHAPES:
        return "the shape of its output depends on values"
    if node.op_type == "Concat" and len(node.input) > _MOST_JOINED:
        return f"joins {len(node.input)} inputs, of at most {_MOST_JOINED}"
    return ""


class _HostValues:
    """Which values the host knows at each point of a graph."""

    def __init__(self, graph: onnx.GraphProto, table: KernelTable, fixed: Collection[str]) -> None:
        self._host_inputs = table.host_inputs
        self._constants = {tensor.name for tensor in graph.initializer}
        self._fixed = set(fixed)
        self._from_shapes: set[str] = set()

    def misread(self, node: onnx.NodeProto) -> list[str]:
        """Return which inputs `node` reads in the wrong place."""
        if self._runs_on_host(node):
            return []
        on_host = self._host_inputs.get(node.op_type, ())
        misread = []
        for i, name in enumerate(node.input):
            if name and i in on_host and not self._is_known(name):
                misread.append(f"reads {name} on the host, which is computed or given on the device")
            if i not in on_host and name in self._fixed | self._from_shapes and node.op_type not in _SHAPES:
                misread.append(f"reads {name} on the device, which is known on the host")
        return misread

    def follow(self, node: onnx.NodeProto) -> None:
        """Learn what `node` makes known."""
        if node.op_type == "Constant" or (node.input and all(name in self._constants for name in node.input if name)):
            self._constants |= set(node.output)  # computed once, when the graph is loaded
        elif self._runs_on_host(node) or node.op_type in _SHAPES:
            self._from_shapes |= set(node.output)

    def _runs_on_host(self, node: onnx.NodeProto) -> bool:
        """Return whether `node` computes from shapes alone."""
        known = self._constants | self._from_shapes
        return any(name in self._from_shapes for name in node.input) and all(
            name in known for name in node.input if name
        )

    def _is_known(self, name: str) -> bool:
        return name in self._constants or name in self._from_shapes or name in self._fixed
