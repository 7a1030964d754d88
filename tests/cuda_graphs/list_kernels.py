"""Write down which CUDA kernels the installed ONNX Runtime for GPUs has; it needs no GPU.

    python -m cuda_graphs.list_kernels      from the folder `tests`, where the extra server-gpu is installed

Ends with 1, and changes nothing, if the installed package lists none.
"""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import onnx
from onnx import TensorProto, helper
from segue_export.graphs.portable import IR_VERSION, OPSET

from cuda_graphs import stand_in
from cuda_graphs.kernels import TABLE_FILE

_CUDA: Final = "CUDAExecutionProvider"
_OLDEST: Final = 13
"""Kernels whose last version is older are left out: no graph has an older opset."""
_NO_LAST: Final = 2**31 - 1
_TYPES: Final = frozenset(
    {"bool", "float", "float16", "bfloat16", "double"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
_PARAMETERS: Final = {
    "ConstantOfShape": [_INT64],
    "CumSum": [_FLOAT, _INT64],
    "Dropout": [_FLOAT, _FLOAT, _BOOL],
    "Expand": [_FLOAT, _INT64],
    "OneHot": [_INT64, _INT64, _FLOAT],
    "Pad": [_FLOAT, _INT64, _FLOAT],
    "Range": [_INT64, _INT64, _INT64],
    "ReduceSum": [_FLOAT, _INT64],
    "Reshape": [_FLOAT, _INT64],
    "Resize": [_FLOAT, _FLOAT, _FLOAT],
    "Slice": [_FLOAT, _INT64, _INT64, _INT64, _INT64],
    "Split": [_FLOAT, _INT64],
    "Squeeze": [_FLOAT, _INT64],
    "Tile": [_FLOAT, _INT64],
    "TopK": [_FLOAT, _INT64],
    "Trilu": [_FLOAT, _INT64],
    "Unsqueeze": [_FLOAT, _INT64],
    # These read everything on the device.
    "Clip": [_FLOAT, _FLOAT, _FLOAT],
    "Gather": [_FLOAT, _INT64],
    "GatherElements": [_FLOAT, _INT64],
    "ScatterElements": [_FLOAT, _INT64, _FLOAT],
    "Where": [_BOOL, _FLOAT, _FLOAT],
}
"""The types of the inputs of operators whose kernels may read one on the host. (Those of ReduceMax and its like are
attributes in this opset.)"""


def table() -> dict[str, Any]:
    """Return the table, in which each set of types stands once; raises RuntimeError if there are no kernels."""
    stand_in.load()
    import onnxruntime
    from onnxruntime.capi import _pybind_state

    onnxruntime.set_default_logger_severity(4)
    sets: dict[tuple[str, ...], int] = {}
    kernels: dict[str, list[list[Any]]] = defaultdict(list)
    for kernel in _pybind_state.get_all_opkernel_def():
        first, last = kernel.version_range
        if kernel.provider == _CUDA and not kernel.domain and last >= _OLDEST:
            types = {
                name: sets.setdefault(_known(names), len(sets))
                for name, names in sorted(kernel.type_constraints.items())
            }
            kernels[kernel.op_name].append([first, None if last == _NO_LAST else last, types])
    if not kernels:
        raise RuntimeError(f"the installed onnxruntime {onnxruntime.__version__} lists no CUDA kernels")
    return {
        "onnxruntime": onnxruntime.__version__,
        "types": list(sets),
        "host inputs": {operator: _host_inputs(operator) for operator in _PARAMETERS},
        "kernels": {operator: sorted(kernels[operator], key=str) for operator in sorted(kernels)},
    }


def _known(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(_TYPES & {name.removeprefix("tensor(").removesuffix(")") for name in names}))


def _host_inputs(operator: str) -> list[int]:
    return [i for i in range(len(_PARAMETERS[operator])) if _is_read_on_host(operator, i)]


def _is_read_on_host(operator: str, i: int) -> bool:
    """Return whether a value that CUDA computes is copied to the host for input `i`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "placed.onnx")
        onnxruntime.InferenceSession(_fed_from_cuda(operator, i), options, providers=[_CUDA])
        placed = onnx.load(options.optimized_model_filepath).graph.node
    asked = next(node for node in placed if node.name == "asked")
    return any(node.op_type == "MemcpyToHost" and node.output[0] == asked.input[i] for node in placed)


def _fed_from_cuda(operator: str, i: int) -> bytes:
    """Return a graph of one node whose input `i` is computed."""
    types = _PARAMETERS[operator]
    inputs = [helper.make_tensor_value_info(f"input_{k}", element, None) for k, element in enumerate(types)]
    names = [value.name if k != i else "computed" for k, value in enumerate(inputs)]
    outputs = ["output", "indices"] if operator == "TopK" else ["output"]
    nodes = [
        helper.make_node("Not" if types[i] == _BOOL else "Abs", [f"input_{i}"], ["computed"]),
        helper.make_node(operator, names, outputs, name="asked"),
    ]
    graph = helper.make_graph(nodes, "asked", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def as_text(content: dict[str, Any]) -> str:
    """Return JSON with one line for each operator, so that a difference shows what changed."""

    def section(name: str) -> str:
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content[name].items()]
        return f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }"

    types = ",\n".join(f"  {json.dumps(names)}" for names in content["types"])
    return (
        f'{{\n "onnxruntime": {json.dumps(content["onnxruntime"])},\n "types": [\n{types}\n ],\n'
        f"{section('host inputs')},\n{section('kernels')}\n}}\n"
    )


if __name__ == "__main__":
    try:
        TABLE_FILE.write_text(as_text(table()))
    except RuntimeError as error:
        sys.exit(f"list_kernels: {error}")
