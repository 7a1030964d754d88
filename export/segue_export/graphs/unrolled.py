"""A step repeated a fixed number of times, between states that stay where the graph runs: the graphs for CUDA.

A loop would return to the host at each step, so the steps are written out. The states of all sequences are in pools,
one for each part of a state, [slots, H]. A graph reads the states in the slots `before`, and writes those after its
steps into the slots `after`:

    h0_pool, c0_pool, h1_pool ... float [slots, H], before, after int64 [B]
        -> h0_pool_out ... (to be bound to the memory of h0_pool ...: only the rows `after` change), faults float [B]

Where `after` shares no slot with `before`, a run changes none of its inputs: it may be repeated, as capturing a CUDA
graph does, and the state before it can still be read. `faults` is 0 for a row whose last state is finite, else NaN.

Two small graphs exchange states with the host:

    giving    pools, before -> h0, c0, h1 ... float [B, H]
    taking    pools, after, h0, c0, h1 ... -> h0_pool_out ...
"""

# Shape suffixes: B rows, H hidden.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from segue_export.graphs.loop import Body, Value, Values, serialize
from segue_export.graphs.portable import Constants
from segue_export.graphs.step import Nodes, state_parts
from segue_export.manifest import Manifest


@dataclass(frozen=True)
class Unrolled:
    """Steps from the states in some slots, and further values [B], to those after the last step."""

    manifest: Manifest
    further: Sequence[Value]
    """Values carried from step to step in addition to the state; the outputs are <name>_out."""
    collected: Sequence[Value]
    """Outputs of each step; stacked along a first axis for the steps."""
    body: Body
    steps: int

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The inputs of every graph of the kind."""
        return [*(value.declared for value in (*self.further, _BEFORE, _AFTER)), *_pools(self.manifest)]

    @property
    def outputs(self) -> list[onnx.ValueInfoProto]:
        """The outputs of every graph of the kind, without the collected ones."""
        return [*_pools(self.manifest, "_out"), Value("faults", TensorProto.FLOAT, ("batch",)).declared]

    @property
    def constants(self) -> Constants:
        """The initializers that the nodes refer to."""
        indices = {f"index_{i}": np.array(i, dtype=np.int64) for i in range(self.steps)}
        return indices | _AXES

    def nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes, in order."""
        parts = state_parts(self.manifest)
        values: Values = {name: name for name in (*parts, *(value.name for value in self.further))}
        steps: list[Values] = []
        nodes, end = _gathering(self.manifest), Nodes()
        for i in range(self.steps):
            step = Nodes(label=f"_{i}")
            values, collected = self.body(step, f"index_{i}", values)
            steps.append(
                {name: step.add("Unsqueeze", [at, "first_axis"], f"{name}_at") for name, at in collected.items()}
            )
            nodes += step.nodes
        for value in self.further:
            end.add("Identity", [values[value.name]], f"{value.name}_out")
        for value in self.collected:
            end.add("Concat", [step[value.name] for step in steps], value.name, axis=0)
        _add_faults(end, [values[part] for part in parts])
        return [*nodes, *end.nodes, *_scattering(self.manifest, values)]


def giving_graph(manifest: Manifest) -> bytes:
    """Return the serialized graph that reads states from the pools."""
    inputs = [_BEFORE.declared, *_pools(manifest)]
    return serialize(_gathering(manifest), inputs, _parts(manifest), {}, {})


def taking_graph(manifest: Manifest) -> bytes:
    """Return the serialized graph that writes states into the pools."""
    inputs = [_AFTER.declared, *_pools(manifest), *_parts(manifest)]
    return serialize(
        _scattering(manifest, {part: part for part in state_parts(manifest)}),
        inputs,
        _pools(manifest, "_out"),
        _AXES,
        {},
    )


_BEFORE: Final = Value("before", TensorProto.INT64, ("batch",))
_AFTER: Final = Value("after", TensorProto.INT64, ("batch",))
_AXES: Final[Constants] = {"first_axis": np.array([0], dtype=np.int64), "last_axis": np.array([-1], dtype=np.int64)}


def _pools(manifest: Manifest, suffix: str = "") -> list[onnx.ValueInfoProto]:
    shape = ("slots", manifest.hidden)
    return [Value(f"{part}_pool{suffix}", TensorProto.FLOAT, shape).declared for part in state_parts(manifest)]


def _parts(manifest: Manifest) -> list[onnx.ValueInfoProto]:
    shape = ("batch", manifest.hidden)
    return [Value(part, TensorProto.FLOAT, shape).declared for part in state_parts(manifest)]


def _gathering(manifest: Manifest) -> list[onnx.NodeProto]:
    """Return the nodes that read the parts of the states, [B, H] each, from the slots `before`."""
    nodes = Nodes()
    for part in state_parts(manifest):
        nodes.add("Gather", [f"{part}_pool", "before"], part, axis=0)
    return nodes.nodes


def _scattering(manifest: Manifest, values: Values) -> list[onnx.NodeProto]:
    """Return the nodes that write parts of states into the slots `after`."""
    nodes = Nodes()
    at = nodes.add("Unsqueeze", ["after", "last_axis"], "after_column")
    for part in state_parts(manifest):
        nodes.add("ScatterND", [f"{part}_pool", at, values[part]], f"{part}_pool_out")
    return nodes.nodes


def _add_faults(nodes: Nodes, parts: Sequence[str]) -> None:
    """Add `faults`: a sum less itself is 0, or NaN if anything in it is not finite."""
    total = nodes.add("Sum", parts, "state_sum")
    nothing = nodes.add("Sub", [total, total], "state_difference")
    nodes.add("ReduceSum", [nothing, "last_axis"], "faults", keepdims=0)
