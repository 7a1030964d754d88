"""The portable ONNX graph of a recurrent language model, built node by node.

    tokens [B, T] -> Transpose [T, B] -> Gather [T, B, E] -> LSTM, GRU or RNN (L times) [T, B, H]
        -> MatMul + Add [T, B, V] -> Transpose -> logits [B, T, V]

One file, symbolic batch and time, no operator outside the default domain. If the manifest's `weights` are "int8" or
"float16" (see `quantization`), matrices are stored in that type and converted to float32 by Cast and Mul: any runtime
can read them, and none rounds h as the server's own graphs do. (ONNX Runtime fuses a MatMul after DequantizeLinear
into one that does.) ONNX's recurrent operators are time-major, and so is everything between the two transposes. A GRU
and an RNN have no memory cell: c passes through to c_out.

The manifest alone defines the graph (`graph_without_constants`, `fixed_constants`, `weight_types`); only the values of
the weights come from training (`weight_constants`, and back with `weights_of_constants`). So a graph can be checked
against its manifest: see `portable_check`.

An RNN gets a spare row of zeros. ONNX Runtime multiplies a single row with another kernel than several rows, which
rounds differently; its LSTM and GRU, which pack their weights, do not. With the spare row no row is ever alone, and
its result does not depend on batching.
"""

# Shape suffixes: B batch, T time, L layers, H hidden, E embedding, V vocabulary.

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from segue_export.graphs.quantization import OUTPUT_SCALE, layer_scale
from segue_export.manifest import METADATA_KEY, Manifest, Weights

OPSET: Final = 17
IR_VERSION: Final = 8  # that of opset 17: every runtime that knows the operators can read it

Constants = dict[str, NDArray[Any]]
"""The graph's initializers by name."""


@dataclass(frozen=True)
class TensorType:
    """Type and shape of an initializer."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size, computed without an allocation."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class _Cell:
    """An architecture: its ONNX operator, and the order of gates in torch's layer and ONNX's."""

    operator: str
    torch_gates: str
    onnx_gates: str
    """The gates in the order in which each library stacks them, by ONNX's names: h is torch's n, c is torch's g."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    states: tuple[str, ...] = ("h",)
    spare_row: bool = False
    """Whether the operator gets a further row, of zeros."""


_CELLS: Final[Mapping[str, _Cell]] = {
    "lstm": _Cell("LSTM", "ifco", "iofc", states=("h", "c")),
    "gru": _Cell("GRU", "rzh", "zrh", {"linear_before_reset": 1}),
    "gru-reset-before": _Cell("GRU", "rzh", "zrh", {"linear_before_reset": 0}),
    "rnn": _Cell("RNN", "h", "h", spare_row=True),
}
_SPARE_ROW: Final[Mapping[str, NDArray[np.int64]]] = {
    "spare_row": np.array([0, 0, 0, 0, 1, 0], dtype=np.int64),  # pads at the start of each axis, then at the end
    "first": np.array([0], dtype=np.int64),
    "last": np.array([-1], dtype=np.int64),
    "row_axis": np.array([1], dtype=np.int64),
}


def state_kinds(architecture: str) -> tuple[str, ...]:
    """Return the parts of each layer's state: h, and c if there is a memory cell."""
    return _CELLS[architecture].states


def portable_graph(manifest: Manifest, weights: Weights) -> bytes:
    """Return the serialized graph (see `artifact`) of `weights`, by torch's names.

    With G gates (LSTM 4, GRU 3, RNN 1), expects `embedding.weight` [V, E], `recurrent.weight_ih_l{k}` [GH, E or H],
    `recurrent.weight_hh_l{k}` [GH, H], `recurrent.bias_ih_l{k}` and `recurrent.bias_hh_l{k}` [GH],
    `output.weight` [V, H], `output.bias` [V]; in int8 also the scales of `quantization`.
    """
    model = graph_without_constants(manifest)
    constants = fixed_constants(manifest) | weight_constants(manifest, weights)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()
    )
    helper.set_model_props(model, {METADATA_KEY: replace(manifest, files={}).to_json().decode()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def graph_without_constants(manifest: Manifest) -> onnx.ModelProto:
    """Return the graph with neither initializers nor metadata."""
    state: list[int | str | None] = [manifest.layers, "batch", manifest.hidden]
    logits: list[int | str | None] = ["batch", "time", len(manifest.vocabulary)]
    graph = helper.make_graph(
        _nodes(manifest),
        "segue",
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
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="segue",
    )


def fixed_constants(manifest: Manifest) -> Constants:
    """Return the initializers that hold no weights: axes, splits and pads."""
    constants: Constants = {"direction_axis": np.array([1], dtype=np.int64)}
    if manifest.layers > 1:
        constants["one_each"] = np.ones(manifest.layers, dtype=np.int64)
    if _CELLS[manifest.architecture].spare_row:
        constants |= _SPARE_ROW
    return constants


def weight_types(manifest: Manifest, embedding: int) -> dict[str, TensorType]:
    """Return type and shape of each initializer with weights; `embedding` is E."""
    V, H = len(manifest.vocabulary), manifest.hidden
    GH = len(_CELLS[manifest.architecture].onnx_gates) * H
    shapes: dict[str, tuple[int, ...]] = {"embedding": (V, embedding), "output_weight": (H, V), "output_bias": (V,)}
    for k in range(manifest.layers):
        shapes |= {f"W{k}": (1, GH, H if k else embedding), f"R{k}": (1, GH, H), f"b{k}": (1, 2 * GH)}
    rounded = _rounded(manifest)
    types = {
        _stored(name, manifest): TensorType(np.dtype(manifest.weights if name in rounded else np.float32), shape)
        for name, shape in shapes.items()
    }
    quantized = _quantized(manifest)
    scales = {name: (V,) if matrix == "output_weight" else (1, GH, 1) for matrix, name in quantized.items()}
    return types | {name: TensorType(np.dtype(np.float32), shape) for name, shape in scales.items()}


def _quantized(manifest: Manifest) -> dict[str, str]:
    """Return the matrices stored in int8, with the name of the scales of each."""
    return _rounded(manifest) if manifest.weights == "int8" else {}


def _rounded(manifest: Manifest) -> dict[str, str]:
    """Return the matrices stored in fewer bits, with the name that int8 gives the scales of each."""
    if manifest.weights == "float32":
        return {}
    layers = {f"{matrix}{k}": f"scale{k}" for k in range(manifest.layers) for matrix in ("W" if k else "") + "R"}
    return layers | {"output_weight": "output_scale"}


def _stored(name: str, manifest: Manifest) -> str:
    """Return the name of the initializer of a matrix."""
    return f"{name}_{manifest.weights}" if name in _rounded(manifest) else name


def weight_constants(manifest: Manifest, weights: Weights) -> Constants:
    """Return the initializers that hold `weights`."""
    cell = _CELLS[manifest.architecture]
    constants: Constants = {
        "embedding": weights["embedding.weight"],
        "output_weight": weights["output.weight"].T,
        "output_bias": weights["output.bias"],
    }
    for k in range(manifest.layers):
        names = (f"weight_ih_l{k}", f"weight_hh_l{k}", f"bias_ih_l{k}", f"bias_hh_l{k}")
        W, R, *biases = (_reordered(weights[f"recurrent.{name}"], cell.torch_gates, cell.onnx_gates) for name in names)
        constants |= {f"W{k}": W[np.newaxis], f"R{k}": R[np.newaxis], f"b{k}": np.concatenate(biases)[np.newaxis]}
    quantized = _quantized(manifest)
    constants = {_stored(name, manifest): value for name, value in constants.items()}
    if quantized:
        constants["output_scale"] = weights[OUTPUT_SCALE]
        for k in range(manifest.layers):
            scale = _reordered(weights[layer_scale(k)], cell.torch_gates, cell.onnx_gates)
            constants[f"scale{k}"] = scale[np.newaxis, :, np.newaxis]
    return constants


def weights_of_constants(manifest: Manifest, constants: Mapping[str, NDArray[Any]]) -> Weights:
    """Return the weights from which `weight_constants` makes `constants`."""
    cell, quantized = _CELLS[manifest.architecture], _quantized(manifest)
    constants = {name.removesuffix(f"_{manifest.weights}"): value for name, value in constants.items()}
    weights = {
        "embedding.weight": constants["embedding"],
        "output.weight": constants["output_weight"].T,
        "output.bias": constants["output_bias"],
    }
    for k in range(manifest.layers):
        stacked = {
            f"recurrent.weight_ih_l{k}": constants[f"W{k}"][0],
            f"recurrent.weight_hh_l{k}": constants[f"R{k}"][0],
        }
        stacked |= zip(
            (f"recurrent.bias_ih_l{k}", f"recurrent.bias_hh_l{k}"), np.split(constants[f"b{k}"][0], 2), strict=True
        )
        if quantized:
            stacked[layer_scale(k)] = constants[f"scale{k}"][0, :, 0]
        weights |= {name: _reordered(value, cell.onnx_gates, cell.torch_gates) for name, value in stacked.items()}
    return weights | ({OUTPUT_SCALE: constants["output_scale"]} if quantized else {})


def _nodes(manifest: Manifest) -> list[onnx.NodeProto]:
    cell, layers = _CELLS[manifest.architecture], range(manifest.layers)
    return [
        *(node for matrix, scale in _rounded(manifest).items() for node in _restored(matrix, scale, manifest)),
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


def _restored(matrix: str, scale: str, manifest: Manifest) -> list[onnx.NodeProto]:
    """Convert a matrix to float32."""
    stored = _stored(matrix, manifest)
    if manifest.weights == "float16":
        return [helper.make_node("Cast", [stored], [matrix], to=TensorProto.FLOAT)]
    return [
        helper.make_node("Cast", [stored], [f"{matrix}_levels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{matrix}_levels", scale], [matrix]),
    ]


def _split_state(name: str, layers: int) -> onnx.NodeProto:
    """Split the state [L, B, H] into one [1, B, H] for each layer."""
    parts = [f"{name}{k}" for k in range(layers)]
    if layers == 1:
        return helper.make_node("Identity", [name], parts)
    return helper.make_node("Split", [name, "one_each"], parts, axis=0)


def _join_state(name: str, layers: int) -> onnx.NodeProto:
    """Join the layers' [1, B, H] into the state [L, B, H]."""
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
    """Apply ONNX's operator to (x, *state); remove its output's axis for directions, of which there is one."""
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
    """Pass c through if the cell has none, so that all architectures have the same outputs."""
    return [] if "c" in cell.states else [helper.make_node("Identity", ["c"], ["c_out"])]


def _reordered(stacked: NDArray[Any], before: str, after: str) -> NDArray[Any]:
    """Bring gates that are stacked along axis 0 from one order into another."""
    gates = dict(zip(before, np.split(stacked, len(before)), strict=True))
    return np.concatenate([gates[name] for name in after])
