"""One step of a model as ONNX nodes: from a symbol and a state to the next state and the logits of the next symbol.

The portable graph (see `portable`) is for any runtime. The server's own graphs (see `writing`, `reading`) consist of
this step, which is as fast when each symbol needs the one before it, and allows sampling and masking between steps:

    product       one for each gate, so that no result must be split; or one for all, so that there are fewer nodes
    first input   a row of a table [V, H] for each gate: a one-hot vector times W is a row of W
    upper input   the layer below concatenated with the layer's own h: one product with both matrices

States are [B, H] for each layer. No node mixes rows: what a row gets depends on that row alone.
"""

# Shape suffixes: B rows, G gates, H hidden, V vocabulary, K inner dimension of a product, N its columns.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from segue_export.graphs.portable import Constants, state_kinds
from segue_export.graphs.quantization import ACTIVATION_SCALE, ACTIVATION_ZERO, OUTPUT_SCALE, layer_scale
from segue_export.manifest import Manifest, Weights

_FLOAT: Final = TensorProto.FLOAT
_FLOAT16: Final = TensorProto.FLOAT16

States = Mapping[str, str]
"""The name that each part of the state ("h0", "c0", "h1" ...) has in a graph."""

_GATES: Final = {"lstm": "ifgo", "gru": "rzn", "gru-reset-before": "rzn", "rnn": "n"}
"""In the order in which torch stacks them, by the letters of torch's documentation, which names no gate of an RNN."""


def state_parts(manifest: Manifest) -> list[str]:
    """Return the parts of the state that a step changes, each [B, H]."""
    return [f"{kind}{k}" for k in range(manifest.layers) for kind in state_kinds(manifest.architecture)]


@dataclass
class Nodes:
    """A list of nodes to append to. Their outputs' names end in `label`: a graph may contain a step several times."""

    label: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        self.nodes.append(helper.make_node(operator, list(inputs), [output + self.label], **attributes))
        return output + self.label


_LARGE: Final = 2**16
"""Bytes of a constant that is worth giving apart."""


class Step:
    """Adds steps of one model to graphs.

    `constants` are the initializers that they refer to; `given` those whose content is not in the graph: whoever loads
    it gives them to the runtime, once for all graphs of a model.
    """

    def __init__(
        self,
        manifest: Manifest,
        weights: Weights,
        *,
        in_float16: bool = False,
        gives_large: bool = False,
        together: bool = False,
    ) -> None:
        """`in_float16`: multiply float16 matrices in float16, as only CUDA can; otherwise in float32.

        `gives_large`: whether large constants are `given`; otherwise none is. `together`: compute the gates of an LSTM
        in one product, where launching a node takes longer than what it does.
        """
        self.manifest = manifest
        self._quantized = manifest.weights == "int8"
        self._halved = manifest.weights == "float16" and in_float16
        self.together = together and manifest.architecture == "lstm" and not self._quantized
        self.constants: Constants = {}
        if self.together:
            three, one = 3 * manifest.hidden, manifest.hidden
            self.constants["sigmoid_and_tanh"] = np.array([three, one], dtype=np.int64)
            self.constants["sigmoids"] = np.array([one] * 3, dtype=np.int64)
        if self._quantized:
            self.constants["activation_scale"] = np.array(ACTIVATION_SCALE, dtype=np.float32)
            self.constants["activation_zero"] = np.array(ACTIVATION_ZERO, dtype=np.uint8)
        for k in range(manifest.layers):
            self._add_layer(k, weights)
        output_scale = weights.get(OUTPUT_SCALE)
        self._add_product("output", weights["output.weight"].T, weights["output.bias"], output_scale)
        self.given: Constants = {}
        if gives_large:
            self.given = {name: value for name, value in self.constants.items() if value.nbytes >= _LARGE}
            self.constants = {name: value for name, value in self.constants.items() if name not in self.given}

    def states(self, nodes: Nodes, token: str, before: States) -> dict[str, str]:
        """Read `token` [B] in the state `before` and return the state after it."""
        after: dict[str, str] = {}
        for k in range(self.manifest.layers):
            below = after.get(f"h{k - 1}")
            layer = _Layer(self, nodes, k, token, below and self.operand(nodes, below, f"below{k}"))
            match self.manifest.architecture:
                case "lstm":
                    after |= layer.lstm(before[f"h{k}"], before[f"c{k}"])
                case "gru":
                    after |= layer.gru(before[f"h{k}"])
                case "gru-reset-before":
                    after |= layer.gru_reset_before(before[f"h{k}"])
                case "rnn":
                    after |= layer.rnn(before[f"h{k}"])
        return after

    def logits(self, nodes: Nodes, top: str) -> str:
        """Return the logits [B, V] that follow from the topmost h [B, H]."""
        return self.product(nodes, "output", self.operand(nodes, top, "top"), "output_addend", "logits")

    def product(self, nodes: Nodes, matrix: str, operand: str, addend: str, output: str) -> str:
        """Return `operand` [B, K] times `matrix` [K, N] plus `addend` [B, N] or [N]."""
        if self._halved:
            product = nodes.add("MatMul", [operand, matrix], f"{output}_float16")
            return nodes.add("Add", [nodes.add("Cast", [product], f"{output}_float32", to=_FLOAT), addend], output)
        if not self._quantized:
            return nodes.add("Gemm", [operand, matrix, addend], output)
        left = [operand, "activation_scale", "activation_zero"]
        right = [matrix, f"{matrix}_scale", f"{matrix}_zero"]
        return nodes.add("QGemm", [*left, *right, addend], output, domain="com.microsoft")

    def beside(self, nodes: Nodes, below: str | None, h: str, name: str) -> str:
        """Return the operand of a layer's product: `h` [B, H], after the layer `below` if there is one."""
        own = self.operand(nodes, h, name)
        return own if below is None else nodes.add("Concat", [below, own], f"{name}_beside", axis=1)

    def operand(self, nodes: Nodes, h: str, name: str) -> str:
        """Return `h` as an operand: in int8 at a fixed scale, which suffices since |h| is at most 1."""
        if self._halved:
            return nodes.add("Cast", [h], f"{name}_float16", to=_FLOAT16)
        if not self._quantized:
            return h
        return nodes.add("QuantizeLinear", [h, "activation_scale", "activation_zero"], f"{name}_quantized")

    def _add_layer(self, k: int, weights: Weights) -> None:
        if self.together:
            self._add_gates_together(k, weights)
            return
        names = _GATES[self.manifest.architecture]
        stacked = [weights[f"recurrent.{name}_l{k}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        scales = np.split(weights[layer_scale(k)], len(names)) if self._quantized else [None] * len(names)
        for name, scale, W, R, b_ih, b_hh in zip(
            names, scales, *(np.split(value, len(names)) for value in stacked), strict=True
        ):
            reads = _table(weights["embedding.weight"], W) + b_ih if k == 0 else b_ih
            if self.manifest.architecture == "gru" and name == "n":  # the reset gate acts on its own half
                self._add_product(f"n{k}_own", R.T, b_hh, scale)
                if k:
                    self._add_product(f"n{k}_input", W.T, reads, scale)
                else:
                    self.constants["n0_input_addend"] = reads.astype(np.float32)
            else:
                self._add_product(f"{name}{k}", np.concatenate([W.T, R.T]) if k else R.T, reads + b_hh, scale)

    def _add_gates_together(self, k: int, weights: Weights) -> None:
        """Keep the matrices of an LSTM's gates side by side, i, f and o before g."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        by_gate = [dict(zip("ifgo", np.split(weights[f"recurrent.{name}_l{k}"], 4), strict=True)) for name in names]
        W, R, b_ih, b_hh = (np.concatenate([gates[gate] for gate in "ifog"]) for gates in by_gate)
        reads = _table(weights["embedding.weight"], W) + b_ih if k == 0 else b_ih
        self._add_product(f"ifog{k}", np.concatenate([W.T, R.T]) if k else R.T, reads + b_hh, None)

    def _add_product(
        self, name: str, matrix_KN: NDArray[Any], addend: NDArray[Any], scale_N: NDArray[np.float32] | None
    ) -> None:
        """Keep a matrix and the addend of its product, [N] or a table [V, N]."""
        as_float32 = matrix_KN.dtype == np.float16 and not self._halved
        self.constants[name] = matrix_KN.astype(np.float32) if as_float32 else matrix_KN
        if scale_N is None:
            self.constants[f"{name}_addend"] = addend.astype(np.float32)
            return
        self.constants[f"{name}_scale"] = scale_N
        self.constants[f"{name}_zero"] = np.zeros(len(scale_N), dtype=np.int8)
        # In units of the product of two integers; beyond the clipped range a gate is 0 or 1 in any case.
        units = np.rint(addend / (np.float64(ACTIVATION_SCALE) * scale_N))
        self.constants[f"{name}_addend"] = np.clip(units, -(2**30), 2**30).astype(np.int32)


def _table(embedding_VE: NDArray[np.float32], W_HE: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the input of a gate for each symbol [V, H], unrounded."""
    return embedding_VE.astype(np.float64) @ W_HE.T.astype(np.float64)


@dataclass(frozen=True)
class _Layer:
    """Layer k of one step. Each method takes the layer's state and returns the parts after the step."""

    step: Step
    nodes: Nodes
    k: int
    token: str
    below: str | None
    """The layer below's h as an operand; None for layer 0, which reads the token."""

    def lstm(self, h: str, c: str) -> dict[str, str]:
        """D2l, equations 10.1.1 to 10.1.5."""
        operand = self._operand(h)
        i, f, o, g = self._gates_together(operand) if self.step.together else self._gates_apart(operand)
        kept = self._add("Mul", [f, c], "kept")
        new = self._add("Mul", [i, g], "new")
        c = self._add("Add", [kept, new], "c")
        return {f"c{self.k}": c, f"h{self.k}": self._add("Mul", [o, self._add("Tanh", [c], "squashed")], "h")}

    def _gates_apart(self, operand: str) -> list[str]:
        """Return the gates i, f, o and g."""
        return [self._gate("Sigmoid", gate, operand) for gate in "ifo"] + [self._gate("Tanh", "g", operand)]

    def _gates_together(self, operand: str) -> list[str]:
        """Return the gates i, f, o and g, of one product."""
        total = self._product("ifog", operand)
        label, k = self.nodes.label, self.k
        halves = [f"{name}{k}{label}" for name in ("ifo_sum", "g_sum")]
        gates = [f"{gate}{k}_open{label}" for gate in "ifo"]
        add = self.nodes.nodes.append
        add(helper.make_node("Split", [total, "sigmoid_and_tanh"], halves, axis=1))
        add(helper.make_node("Split", [self._add("Sigmoid", [halves[0]], "ifo_open"), "sigmoids"], gates, axis=1))
        return [*gates, self._add("Tanh", [halves[1]], "g_open")]

    def gru(self, h: str) -> dict[str, str]:
        """torch.nn.GRU: the reset gate acts after the product."""
        operand = self._operand(h)
        r, z = (self._gate("Sigmoid", gate, operand) for gate in "rz")
        own = self.step.operand(self.nodes, h, f"own{self.k}") if self.below else operand
        own = self._product("n", own, "_own")
        past = self._add("Mul", [r, own], "past")
        inputs = self._product("n", self.below, "_input") if self.below else self._addend("n", "_input")
        return self._mixed(h, z, self._add("Tanh", [self._add("Add", [inputs, past], "n_sum")], "n"))

    def gru_reset_before(self, h: str) -> dict[str, str]:
        """D2l, equations 10.2.1 to 10.2.3: the reset gate acts before the product."""
        operand = self._operand(h)
        r, z = (self._gate("Sigmoid", gate, operand) for gate in "rz")
        reset = self._operand(self._add("Mul", [r, h], "reset"), "reset")
        return self._mixed(h, z, self._gate("Tanh", "n", reset))

    def rnn(self, h: str) -> dict[str, str]:
        """D2l, equation 9.4.5, with tanh."""
        return {f"h{self.k}": self._gate("Tanh", "n", self._operand(h))}

    def _mixed(self, h: str, z: str, n: str) -> dict[str, str]:
        """Return n + z (h - n), which is z h + (1 - z) n."""
        change = self._add("Mul", [z, self._add("Sub", [h, n], "difference")], "change")
        return {f"h{self.k}": self._add("Add", [n, change], "h")}

    def _operand(self, h: str, name: str = "h") -> str:
        return self.step.beside(self.nodes, self.below, h, f"{name}{self.k}")

    def _gate(self, activation: str, gate: str, operand: str) -> str:
        return self._add(activation, [self._product(gate, operand)], f"{gate}_open")

    def _product(self, gate: str, operand: str, half: str = "") -> str:
        matrix = f"{gate}{self.k}{half}"
        reads_token = self.below is None and half != "_own"
        addend = self._addend(gate, half) if reads_token else f"{matrix}_addend"
        return self.step.product(self.nodes, matrix, operand, addend, f"{matrix}_sum")

    def _addend(self, gate: str, half: str = "") -> str:
        """Return the token's row of the table of layer 0."""
        matrix = f"{gate}{self.k}{half}"
        return self.nodes.add("Gather", [f"{matrix}_addend", self.token], f"{matrix}_row")

    def _add(self, operator: str, inputs: Sequence[str], output: str) -> str:
        return self.nodes.add(operator, inputs, f"{output}{self.k}_next")
