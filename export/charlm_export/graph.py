"""The portable ONNX graph of a recurrent language model, built node by node.

    tokens [B, T] -> Transpose [T, B] -> Gather [T, B, E] -> LSTM, GRU or RNN (L times) [T, B, H]
        -> MatMul + Add [T, B, V] -> Transpose -> logits [B, T, V]

One file, symbolic batch and time, no operator outside the default domain. ONNX's recurrent operators are time-major,
and so is everything between the two transposes. A GRU and an RNN have no memory cell: c passes through to c_out.

An RNN reads a spare row of zeros beside the others. ONNX Runtime multiplies a lone row by another kernel than
several, which rounds otherwise; of its LSTM and GRU, which pack their weights, that does not hold. With the spare
row no row is ever alone, and what a row gets does not depend on its company.
"""

# Shape suffixes: B batch, T time, L layers, H hidden, E embedding, V vocabulary.

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from charlm_export.artifact import METADATA_KEY, Manifest

OPSET: Final = 17
IR_VERSION: Final = 8  # the one that came with opset 17: readable by every runtime that knows the operators

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Cell:
    """What torch's layer of an architecture is in ONNX."""

    operator: str
    torch_gates: str
    onnx_gates: str
    """The gates in the order in which each stacks them: ONNX's names, of which h is torch's n, and c its g."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    states: tuple[str, ...] = ("h",)
    spare_row: bool = False
    """Whether the operator reads a row of zeros beside those that it is given."""


_CELLS: Final[Mapping[str, _Cell]] = {
    "lstm": _Cell("LSTM", "ifco", "iofc", states=("h", "c")),
    "gru": _Cell("GRU", "rzh", "zrh", {"linear_before_reset": 1}),
    "gru-reset-before": _Cell("GRU", "rzh", "zrh", {"linear_before_reset": 0}),
    "rnn": _Cell("RNN", "h", "h", spare_row=True),
}
_SPARE_ROW: Final[Mapping[str, NDArray[np.int64]]] = {
    "spare_row": np.array([0, 0, 0, 0, 1, 0], dtype=np.int64),  # what Pad adds before each axis, then behind it
    "first": np.array([0], dtype=np.int64),
    "last": np.array([-1], dtype=np.int64),
    "row_axis": np.array([1], dtype=np.int64),
}


def portable_graph(manifest: Manifest, weights: Weights) -> bytes:
    """Return the serialized graph (see `artifact`) of `weights`, which bear torch's names.

    With G gates (LSTM 4, GRU 3, RNN 1), expects `embedding.weight` [V, E], `recurrent.weight_ih_l{k}` [GH, E or H],
    `recurrent.weight_hh_l{k}` [GH, H], `recurrent.bias_ih_l{k}` and `recurrent.bias_hh_l{k}` [GH],
    `output.weight` [V, H], `output.bias` [V].
    """
    cell, layers = _CELLS[manifest.architecture], range(manifest.layers)
    nodes = [
        helper.make_node("Transpose", ["tokens"], ["tokens_TB"], perm=[1, 0]),
        helper.make_node("Gather", ["embedding", "tokens_TB"], ["layer0_input"]),
        *(_split_state(name, manifest.layers) for name in cell.states),
        *(node for k in layers for node in _layer(cell, k, manifest.hidden)),
        *(_join_state(name, manifest.layers) for name in cell.states),
        *_unused_memory(cell),
        helper.make_node("MatMul", [f"layer{manifest.layers}_input", "output_weight"], ["product"]),
        helper.make_node("Add", ["product", "output_bias"], ["logits_TBV"]),
        helper.make_node("Transpose", ["logits_TBV"], ["logits"], perm=[1, 0, 2]),
    ]
    constants: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
        "direction_axis": np.array([1], dtype=np.int64),
        "embedding": weights["embedding.weight"],
        "output_weight": weights["output.weight"].T,
        "output_bias": weights["output.bias"],
    }
    for k in layers:
        constants |= _layer_constants(cell, k, weights)
    if manifest.layers > 1:
        constants["one_each"] = np.ones(manifest.layers, dtype=np.int64)
    if cell.spare_row:
        constants |= _SPARE_ROW
    return _serialize(manifest, nodes, constants)


def _split_state(name: str, layers: int) -> onnx.NodeProto:
    """Cut the state [L, B, H] into one [1, B, H] for each layer."""
    parts = [f"{name}{k}" for k in range(layers)]
    if layers == 1:
        return helper.make_node("Identity", [name], parts)
    return helper.make_node("Split", [name, "one_each"], parts, axis=0)


def _join_state(name: str, layers: int) -> onnx.NodeProto:
    """Make the layers' [1, B, H] the state [L, B, H]."""
    return helper.make_node("Concat", [f"{name}{k}_out" for k in range(layers)], [f"{name}_out"], axis=0)


def _layer(cell: _Cell, k: int, hidden: int) -> list[onnx.NodeProto]:
    """From layer k's input [T, B, E or H] and state [1, B, H] to the input of the layer above and the state after."""
    inputs = [f"layer{k}_input", *(f"{name}{k}" for name in cell.states)]
    outputs = [f"layer{k + 1}_input", *(f"{name}{k}_out" for name in cell.states)]
    if not cell.spare_row:
        return _operator(cell, k, hidden, inputs, outputs)
    padded, uncut = [f"{name}_padded" for name in inputs], [f"{name}_uncut" for name in outputs]
    return [
        *(helper.make_node("Pad", [name, "spare_row"], [f"{name}_padded"]) for name in inputs),
        *_operator(cell, k, hidden, padded, uncut),
        *(helper.make_node("Slice", [f"{name}_uncut", "first", "last", "row_axis"], [name]) for name in outputs),
    ]


def _operator(cell: _Cell, k: int, hidden: int, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    """Apply ONNX's operator to (x, *state); its own output has an axis for directions, of which there is one."""
    (x, *before), (y, *after) = inputs, outputs
    return [
        helper.make_node(
            cell.operator,
            [x, f"W{k}", f"R{k}", f"b{k}", "", *before],
            [f"{y}_directed", *after],
            hidden_size=hidden,
            **cell.attributes,
        ),
        helper.make_node("Squeeze", [f"{y}_directed", "direction_axis"], [y]),
    ]


def _unused_memory(cell: _Cell) -> list[onnx.NodeProto]:
    """Hand c through where the cell has none, so that every architecture meets one contract."""
    return [] if "c" in cell.states else [helper.make_node("Identity", ["c"], ["c_out"])]


def _layer_constants(cell: _Cell, k: int, weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Return ONNX's W [1, GH, E], R [1, GH, H] and b [1, 2GH] of layer k."""
    names = (f"weight_ih_l{k}", f"weight_hh_l{k}", f"bias_ih_l{k}", f"bias_hh_l{k}")
    W, R, *biases = (_onnx_gates(cell, weights[f"recurrent.{name}"]) for name in names)
    return {f"W{k}": W[np.newaxis], f"R{k}": R[np.newaxis], f"b{k}": np.concatenate(biases)[np.newaxis]}


def _onnx_gates(cell: _Cell, stacked: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reorder the gates stacked along axis 0 from torch's order to ONNX's."""
    gates = dict(zip(cell.torch_gates, np.split(stacked, len(cell.torch_gates)), strict=True))
    return np.concatenate([gates[name] for name in cell.onnx_gates])


def _serialize(
    manifest: Manifest,
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, NDArray[np.float32] | NDArray[np.int64]],
) -> bytes:
    state: list[int | str | None] = [manifest.layers, "batch", manifest.hidden]
    logits: list[int | str | None] = ["batch", "time", len(manifest.vocabulary)]
    graph = helper.make_graph(
        nodes,
        "charlm",
        inputs=[
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "time"]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, state),
            helper.make_tensor_value_info("c", TensorProto.FLOAT, state),
        ],
        outputs=[
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, state),
            helper.make_tensor_value_info("c_out", TensorProto.FLOAT, state),
        ],
        initializer=[numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="charlm",
    )
    helper.set_model_props(model, {METADATA_KEY: replace(manifest, files={}).to_json().decode()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
