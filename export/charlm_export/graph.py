"""The portable ONNX graph of an LSTM language model, built node by node.

    tokens [B, T] -> Transpose [T, B] -> Gather [T, B, E] -> LSTM (L times) [T, B, H]
        -> MatMul + Add [T, B, V] -> Transpose -> logits [B, T, V]

One file, symbolic batch and time, no operator outside the default domain. ONNX's LSTM is time-major, and so is
everything between the two transposes.
"""

# Shape suffixes: B batch, T time, L layers, H hidden, E embedding, V vocabulary.

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from charlm_export.artifact import METADATA_KEY, Manifest

OPSET: Final = 17
IR_VERSION: Final = 8  # the one that came with opset 17: readable by every runtime that knows the operators

Weights = Mapping[str, NDArray[np.float32]]

_TORCH_GATES: Final = ("i", "f", "c", "o")
_ONNX_GATES: Final = ("i", "o", "f", "c")


def portable_graph(manifest: Manifest, weights: Weights) -> bytes:
    """Return the serialized graph (see `artifact`) of `weights`, which bear torch's names.

    Expects `embedding.weight` [V, E], `lstm.weight_ih_l{k}` [4H, E or H], `lstm.weight_hh_l{k}` [4H, H],
    `lstm.bias_ih_l{k}` and `lstm.bias_hh_l{k}` [4H], `output.weight` [V, H], `output.bias` [V].
    """
    layers = range(manifest.layers)
    nodes = [
        helper.make_node("Transpose", ["tokens"], ["tokens_TB"], perm=[1, 0]),
        helper.make_node("Gather", ["embedding", "tokens_TB"], ["layer0_input"]),
        *_split_state("h", manifest.layers),
        *_split_state("c", manifest.layers),
        *(node for k in layers for node in _layer(k, manifest.hidden)),
        helper.make_node("Concat", [f"h{k}_out" for k in layers], ["h_out"], axis=0),
        helper.make_node("Concat", [f"c{k}_out" for k in layers], ["c_out"], axis=0),
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
        constants |= _layer_constants(k, weights)
    if manifest.layers > 1:
        constants["one_each"] = np.ones(manifest.layers, dtype=np.int64)
    return _serialize(manifest, nodes, constants)


def _split_state(name: str, layers: int) -> list[onnx.NodeProto]:
    """Cut the state [L, B, H] into one [1, B, H] for each layer."""
    parts = [f"{name}{k}" for k in range(layers)]
    if layers == 1:
        return [helper.make_node("Identity", [name], parts)]
    return [helper.make_node("Split", [name, "one_each"], parts, axis=0)]


def _layer(k: int, hidden: int) -> list[onnx.NodeProto]:
    inputs = [f"layer{k}_input", f"W{k}", f"R{k}", f"b{k}", "", f"h{k}", f"c{k}"]
    outputs = [f"layer{k}_output", f"h{k}_out", f"c{k}_out"]
    return [
        helper.make_node("LSTM", inputs, outputs, hidden_size=hidden),
        helper.make_node("Squeeze", [f"layer{k}_output", "direction_axis"], [f"layer{k + 1}_input"]),
    ]


def _layer_constants(k: int, weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Return ONNX's W [1, 4H, E], R [1, 4H, H] and b [1, 8H] of layer k."""
    biases = (weights[f"lstm.bias_ih_l{k}"], weights[f"lstm.bias_hh_l{k}"])
    return {
        f"W{k}": _onnx_gates(weights[f"lstm.weight_ih_l{k}"])[np.newaxis],
        f"R{k}": _onnx_gates(weights[f"lstm.weight_hh_l{k}"])[np.newaxis],
        f"b{k}": np.concatenate([_onnx_gates(bias) for bias in biases])[np.newaxis],
    }


def _onnx_gates(stacked: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reorder four gates stacked along axis 0 from torch's order to ONNX's."""
    gates = dict(zip(_TORCH_GATES, np.split(stacked, 4), strict=True))
    return np.concatenate([gates[name] for name in _ONNX_GATES])


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
