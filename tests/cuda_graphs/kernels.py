"""Which operators CUDA has kernels for, as the pinned ONNX Runtime lists them, and which nodes of a graph lack one.

Without a kernel ONNX Runtime runs a node on the CPU and copies its inputs and outputs, and such a graph cannot be
captured.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
from onnx import TensorProto, defs, shape_inference

TABLE_FILE: Final = Path(__file__).with_name("kernels.json")

Types = Mapping[str, str]
"""Element types, such as "float16", by the names of tensors."""


@dataclass(frozen=True)
class Kernel:
    """The implementation of an operator for some types."""

    first: int
    """The version of the operator: the opset in which its definition last changed."""
    last: int | None
    """The last version that it implements; None: later ones did not exist."""
    types: Mapping[str, frozenset[str]]
    """Element types by the names of type parameters."""

    def implements(self, version: int) -> bool:
        """Return whether it implements a version of the operator; an open end covers only the first."""
        return version == self.first or (self.last is not None and self.first < version <= self.last)

    def admits(self, types: Mapping[str, set[str]]) -> bool:
        """Return whether it takes these types, by the names of type parameters."""
        return all(types.get(name, set()) <= allowed for name, allowed in self.types.items())


@dataclass(frozen=True)
class KernelTable:
    """The CUDA kernels of ONNX's own operators."""

    onnxruntime: str
    """The version that lists them."""
    kernels: Mapping[str, tuple[Kernel, ...]]
    """By operator."""
    host_inputs: Mapping[str, tuple[int, ...]]
    """By operator: the inputs that a kernel reads on the host."""

    @classmethod
    def from_json(cls, document: str) -> "KernelTable":
        """Decode what `list_kernels` writes."""
        content = json.loads(document)
        sets = [frozenset(names) for names in content["types"]]
        return cls(
            content["onnxruntime"],
            {operator: tuple(_kernel(row, sets) for row in rows) for operator, rows in content["kernels"].items()},
            {operator: tuple(inputs) for operator, inputs in content["host inputs"].items()},
        )

    @classmethod
    def pinned(cls) -> "KernelTable":
        """Return that of the pinned version."""
        return cls.from_json(TABLE_FILE.read_text())


def _kernel(row: list[Any], sets: list[frozenset[str]]) -> Kernel:
    first, last, types = row
    return Kernel(first, last, {name: sets[at] for name, at in types.items()})


def nodes_without_kernel(model: onnx.ModelProto, table: KernelTable) -> list[str]:
    """Return the nodes that have no CUDA kernel for their types; raises if types cannot be inferred."""
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    types = _element_types(inferred.graph)
    opset = next(opset.version for opset in model.opset_import if opset.domain == "")
    return [problem for node in inferred.graph.node if (problem := _without_kernel(node, types, opset, table))]


def described(node: onnx.NodeProto) -> str:
    """Return what a reader finds a node by."""
    return f"{node.op_type} {node.name or ', '.join(node.output)}"


def _without_kernel(node: onnx.NodeProto, types: Types, opset: int, table: KernelTable) -> str:
    """Return why a node has no kernel, or nothing if it has one."""
    if node.domain:
        return f"{described(node)}: the table has no operators of {node.domain}"
    schema = defs.get_schema(node.op_type, opset)
    kernels = [kernel for kernel in table.kernels.get(node.op_type, ()) if kernel.implements(schema.since_version)]
    if not kernels:
        return f"{described(node)}: no kernel of version {schema.since_version}"
    own = _by_parameter(node, schema, types)
    if any(kernel.admits(own) for kernel in kernels):
        return ""
    listed = ", ".join(f"{name} = {' or '.join(sorted(found))}" for name, found in sorted(own.items()))
    return f"{described(node)}: no kernel for {listed}"


def _by_parameter(node: onnx.NodeProto, schema: defs.OpSchema, types: Types) -> dict[str, set[str]]:
    """Return the types of a node by what a kernel may call them: a type parameter, or an input or output."""
    by_parameter: dict[str, set[str]] = {}
    formal = [*_paired(node.input, schema.inputs), *_paired(node.output, schema.outputs)]
    for tensor, parameter in formal:
        for name in {parameter.type_str, parameter.name}:
            by_parameter.setdefault(name, set()).add(types[tensor])
    return by_parameter


def _paired(
    names: Iterable[str], parameters: Sequence[defs.OpSchema.FormalParameter]
) -> Iterator[tuple[str, defs.OpSchema.FormalParameter]]:
    """Pair tensors with parameters, the last of which may be variadic."""
    for i, name in enumerate(names):
        if name:
            yield name, parameters[min(i, len(parameters) - 1)]


def _element_types(graph: onnx.GraphProto) -> dict[str, str]:
    typed = [
        (value.name, value.type.tensor_type.elem_type) for value in (*graph.input, *graph.value_info, *graph.output)
    ]
    typed += [(tensor.name, tensor.data_type) for tensor in graph.initializer]
    return {name: _type_name(element) for name, element in typed}


def _type_name(element: int) -> str:
    return TensorProto.DataType.Name(element).lower()
