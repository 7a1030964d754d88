"""A step repeated within one graph in a loop of any length, for the CPU.

There a loop is as fast as steps that are written out (see `unrolled`), and one copy of the weights serves any length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from segue_export.graphs.portable import IR_VERSION, OPSET, Constants, state_kinds
from segue_export.graphs.step import Nodes, state_parts
from segue_export.manifest import Manifest

_CONTRIBUTED_OPSET = 1


@dataclass(frozen=True)
class Value:
    """A tensor: its name in the graph, element type and shape."""

    name: str
    element: int
    shape: tuple[str | int, ...]

    def named(self, name: str) -> onnx.ValueInfoProto:
        """Return its declaration under another name."""
        return helper.make_tensor_value_info(name, self.element, self.shape)

    @property
    def declared(self) -> onnx.ValueInfoProto:
        """Its declaration."""
        return self.named(self.name)


Values = dict[str, str]
"""Names of tensors in a graph, by the names of their values."""

Body = Callable[[Nodes, str, Values], tuple[Values, Values]]
"""Adds one step: (nodes, name of the step's index (int64 []), carried values) -> (carried values, collected values)."""


@dataclass(frozen=True)
class Repetition:
    """Steps from the state (h, c), [L, B, H] each, and further values, to those after the last step."""

    manifest: Manifest
    further: Sequence[Value]
    """Values carried from step to step in addition to the state; the outputs are <name>_out."""
    collected: Sequence[Value]
    """Outputs of each step; stacked along a first axis for the steps."""
    body: Body

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The inputs of every repetition."""
        return [value.declared for value in (Value("steps", TensorProto.INT64, ()), *self.further, *self._state(""))]

    @property
    def outputs(self) -> list[onnx.ValueInfoProto]:
        """The outputs of every repetition, without the collected ones."""
        return [value.declared for value in self._state("_out")]

    @property
    def constants(self) -> Constants:
        """The initializers that the nodes refer to."""
        return {
            "layer_axis": np.array([0], dtype=np.int64),
            "one_each": np.ones(self.manifest.layers, dtype=np.int64),
            "always": np.array(1, dtype=np.bool_),
        }

    def nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes, in order."""
        return [*self._split(), self._loop(), *self._joined()]

    def _carried(self) -> list[Value]:
        parts = (Value(part, TensorProto.FLOAT, ("batch", self.manifest.hidden)) for part in state_parts(self.manifest))
        return [*self.further, *parts]

    def _state(self, suffix: str) -> list[Value]:
        shape = (self.manifest.layers, "batch", self.manifest.hidden)
        return [Value(f"{kind}{suffix}", TensorProto.FLOAT, shape) for kind in "hc"]

    def _split(self) -> list[onnx.NodeProto]:
        """Split the state into its parts, [B, H] each."""
        nodes, layers = Nodes(), range(self.manifest.layers)
        for kind in state_kinds(self.manifest.architecture):
            layers_of = [f"{kind}{k}_layer" for k in layers]
            nodes.nodes.append(helper.make_node("Split", [kind, "one_each"], layers_of, axis=0))
            for k in layers:
                nodes.add("Squeeze", [layers_of[k], "layer_axis"], f"{kind}{k}")
        return nodes.nodes

    def _joined(self) -> list[onnx.NodeProto]:
        """Join the parts into the state; without a memory cell, c passes through."""
        nodes, layers = Nodes(), range(self.manifest.layers)
        for kind in state_kinds(self.manifest.architecture):
            layers_of = [nodes.add("Unsqueeze", [f"{kind}{k}_out", "layer_axis"], f"{kind}{k}_last") for k in layers]
            nodes.add("Concat", layers_of, f"{kind}_out", axis=0)
        if "c" not in state_kinds(self.manifest.architecture):
            nodes.add("Identity", ["c"], "c_out")
        return nodes.nodes

    def _loop(self) -> onnx.NodeProto:
        nodes, carried = Nodes(), self._carried()
        before = {value.name: f"{value.name}_before" for value in carried}
        after, collected = self.body(nodes, "index", before)
        nodes.add("Identity", ["go_on"], "go_on_next")
        body = helper.make_graph(
            nodes.nodes,
            "step",
            inputs=[
                helper.make_tensor_value_info("index", TensorProto.INT64, []),
                helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
                *(value.named(before[value.name]) for value in carried),
            ],
            outputs=[
                helper.make_tensor_value_info("go_on_next", TensorProto.BOOL, []),
                *(value.named(after[value.name]) for value in carried),
                *(value.named(collected[value.name]) for value in self.collected),
            ],
        )
        inputs = ["steps", "always", *(value.name for value in carried)]
        outputs = [*(f"{value.name}_out" for value in carried), *(value.name for value in self.collected)]
        return helper.make_node("Loop", inputs, outputs, body=body)


def serialize(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Constants,
    given: Constants,
) -> bytes:
    """Return a graph for the server as a serialized model, without the content of the constants in `given`."""
    inside = [numpy_helper.from_array(np.array(value, order="C"), name) for name, value in constants.items()]
    apart = [_declared_apart(name, value) for name, value in given.items()]
    graph = helper.make_graph(list(nodes), "segue", list(inputs), list(outputs), inside + apart)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", _CONTRIBUTED_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="segue")
    return model.SerializeToString()


def _declared_apart(name: str, value: NDArray[Any]) -> TensorProto:
    tensor = TensorProto(name=name, dims=value.shape, data_location=TensorProto.EXTERNAL)
    tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor.external_data.add(key="location", value="given")
    return tensor
