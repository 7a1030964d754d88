"""The graph that writes: several steps in one run, each of which chooses the symbol that the next one reads.

    steps int64 [], token int64 [B], h, c float [L, B, H], uniform float [K, B, 1], inverse_temperature float [B, 1],
    bias float [B or 1, V]
        -> ids int64 [K, B], h_out, c_out float [L, B, H]

`token` is the last symbol before the state (h, c), `uniform` one random number in (0, 1) for each symbol. A symbol is
chosen by inverting the cumulative distribution of softmax((logits + bias) / temperature). Temperature 0 is
`GREEDY` as inverse temperature and any uniform below 1/V; a bias of minus infinity bars a symbol.

Variants have more inputs and outputs:

    filtered   top_k int64, top_p, min_p float [B, 1]: draws from the symbols that top-k, top-p and min-p keep, in the
               order of likelihood (so the same uniforms choose other symbols than without filters)
    scored     -> log_probabilities float [K, B, V] of the model itself, without bias and temperature
    spelled    spelling int64 [B] -> spelling_out int64 [B]: the state of an automaton that bars symbols, given as a
               table of next states [S, V], -1 for barred

What a row gets depends on that row alone, and has the same bits for any K (two runs of K equal one of 2 K).
`scored` changes no other output.
"""

# Shape suffixes: B rows, K steps, L layers, H hidden, V vocabulary, S states of the automaton.

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from segue_export.graphs.loop import Repetition, Value, Values, serialize
from segue_export.graphs.portable import Constants
from segue_export.graphs.step import Nodes, Step

GREEDY: Final = 2.0**66
"""An inverse temperature at which only the likeliest symbols have a chance. A power of two, so that different logits
stay different."""

UNIFORM_BITS: Final = 23
"""Of a uniform number: (n + 1/2) / 2^23, for n from 0 to 2^23 - 1, is exact in float32 and neither 0 nor 1."""

_LARGEST_TRIANGLE: Final = 160
"""The largest vocabulary for which a product with a triangle of ones is faster than CumSum."""


@dataclass(frozen=True)
class WritingVariant:
    """What a graph does beyond sampling by temperature and bias."""

    filtered: bool = False
    scored: bool = False
    unrolled: int = 0
    """The number of unrolled steps, as CUDA needs them; 0: a loop of any length."""


def writing_graph(step: Step, variant: WritingVariant, next_SV: NDArray[np.int64] | None = None) -> bytes:
    """Return the serialized graph; `next_SV` is the automaton, None if any symbol may follow any other."""
    manifest, vocabulary = step.manifest, len(step.manifest.vocabulary)
    sampler = _Sampler(vocabulary, variant, next_SV)

    def write(nodes: Nodes, index: str, before: Values) -> tuple[Values, Values]:
        after = step.states(nodes, before["token"], before)
        logits = step.logits(nodes, after[f"h{manifest.layers - 1}"])
        uniform = nodes.add("Gather", ["uniform", index], "uniform_now", axis=0)
        after["token"] = sampler.choose(nodes, logits, uniform, before.get("spelling"))
        collected = {"ids": nodes.add("Identity", [after["token"]], "id")}
        if next_SV is not None:
            after["spelling"] = sampler.spell(nodes, before["spelling"], after["token"])
        if variant.scored:
            collected["log_probabilities"] = nodes.add("LogSoftmax", [logits], "scores", axis=1)
        return after, collected

    further = [Value("token", TensorProto.INT64, ("batch",))]
    if next_SV is not None:
        further.append(Value("spelling", TensorProto.INT64, ("batch",)))
    collected = [Value("ids", TensorProto.INT64, ("batch",))]
    if variant.scored:
        collected.append(Value("log_probabilities", TensorProto.FLOAT, ("batch", vocabulary)))
    repetition = Repetition(manifest, further, collected, write, variant.unrolled)
    outputs = [Value(value.name, value.element, ("steps", *value.shape)).declared for value in collected]
    if next_SV is not None:
        outputs.append(Value("spelling_out", TensorProto.INT64, ("batch",)).declared)
    return serialize(
        repetition.nodes(),
        [*repetition.inputs, *(value.declared for value in _inputs(vocabulary, variant))],
        [*repetition.outputs, *outputs],
        step.constants | sampler.constants | repetition.constants,
    )


def _inputs(vocabulary: int, variant: WritingVariant) -> list[Value]:
    inputs = [
        Value("uniform", TensorProto.FLOAT, ("steps", "batch", 1)),
        Value("inverse_temperature", TensorProto.FLOAT, ("batch", 1)),
        Value("bias", TensorProto.FLOAT, ("bias_rows", vocabulary)),
    ]
    if variant.filtered:
        inputs.append(Value("top_k", TensorProto.INT64, ("batch", 1)))
        inputs += [Value(name, TensorProto.FLOAT, ("batch", 1)) for name in ("top_p", "min_p")]
    return inputs


class _Sampler:
    """Adds the nodes that choose a symbol."""

    def __init__(self, vocabulary: int, variant: WritingVariant, next_SV: NDArray[np.int64] | None) -> None:
        self._filtered = variant.filtered
        self._triangle = vocabulary <= _LARGEST_TRIANGLE
        self.constants: Constants = {}
        if self._triangle:
            self.constants["triangle"] = np.triu(np.ones((vocabulary, vocabulary), dtype=np.float32))
        else:
            self.constants["symbol_axis"] = np.array(1, dtype=np.int64)
        if variant.filtered:
            self.constants |= {
                "ranks": np.arange(vocabulary, dtype=np.int64)[np.newaxis],
                "every_rank": np.array([vocabulary], dtype=np.int64),
                "first_rank": np.array([0], dtype=np.int64),
                "last_rank": np.array([vocabulary - 1], dtype=np.int64),
                "excluded": np.array(0, dtype=np.float32),
                "rank_axis": np.array([1], dtype=np.int64),
            }
        if next_SV is not None:
            self.constants |= {
                "next_spelling": next_SV.ravel(),
                "barred": np.where(next_SV < 0, -np.inf, 0).astype(np.float32),
                "symbols": np.array(vocabulary, dtype=np.int64),
            }

    def choose(self, nodes: Nodes, logits: str, uniform: str, spelling: str | None) -> str:
        """Return the ids [B] that `uniform` [B, 1] chooses."""
        biased = nodes.add("Add", [logits, "bias"], "biased")
        if spelling is not None:
            biased = nodes.add("Add", [biased, nodes.add("Gather", ["barred", spelling], "barred_now")], "spelled")
        tempered = nodes.add("Mul", [biased, "inverse_temperature"], "tempered")
        p = nodes.add("Softmax", [tempered], "p", axis=1)
        return self._draw_filtered(nodes, p, uniform) if self._filtered else self._draw(nodes, p, uniform)

    def spell(self, nodes: Nodes, spelling: str, token: str) -> str:
        """Return the automaton's states [B] after `token`."""
        row = nodes.add("Mul", [spelling, "symbols"], "spelling_row")
        return nodes.add("Gather", ["next_spelling", nodes.add("Add", [row, token], "spelling_at")], "spelling_next")

    def _draw(self, nodes: Nodes, p: str, uniform: str) -> str:
        return self._first_at(nodes, self._cumulative(nodes, p, "cumulative"), uniform, "token_next")

    def _draw_filtered(self, nodes: Nodes, p: str, uniform: str) -> str:
        sorted_p, order = f"sorted{nodes.label}", f"order{nodes.label}"
        nodes.nodes.append(helper.make_node("TopK", [p, "every_rank"], [sorted_p, order], axis=1))
        kept = nodes.add("Where", [nodes.add("Less", ["ranks", "top_k"], "in_top_k"), sorted_p, "excluded"], "kept_k")
        kept = self._keep_top_p(nodes, kept)
        kept = self._keep_min_p(nodes, kept)
        cumulative = self._cumulative(nodes, kept, "cumulative")
        total = nodes.add("Gather", [cumulative, "last_rank"], "total", axis=1)
        rank = self._first_at(nodes, cumulative, nodes.add("Mul", [uniform, total], "threshold"), "rank")
        rank = nodes.add("Unsqueeze", [rank, "rank_axis"], "rank_column")
        chosen = nodes.add("GatherElements", [order, rank], "chosen", axis=1)
        return nodes.add("Squeeze", [chosen, "rank_axis"], "token_next")

    def _keep_top_p(self, nodes: Nodes, p: str) -> str:
        """Keep each symbol before which the sum is less than top_p of the whole."""
        cumulative = self._cumulative(nodes, p, "reached")
        whole = nodes.add("Gather", [cumulative, "last_rank"], "whole", axis=1)
        before = nodes.add("Sub", [cumulative, p], "before")
        inside = nodes.add("Less", [before, nodes.add("Mul", [whole, "top_p"], "limit_p")], "in_top_p")
        return nodes.add("Where", [inside, p, "excluded"], "kept_p")

    def _keep_min_p(self, nodes: Nodes, p: str) -> str:
        likeliest = nodes.add("Gather", [p, "first_rank"], "likeliest", axis=1)
        too_small = nodes.add("Less", [p, nodes.add("Mul", [likeliest, "min_p"], "least_p")], "below_min_p")
        return nodes.add("Where", [too_small, "excluded", p], "kept_min_p")

    def _cumulative(self, nodes: Nodes, p: str, name: str) -> str:
        if self._triangle:
            return nodes.add("MatMul", [p, "triangle"], name)
        return nodes.add("CumSum", [p, "symbol_axis"], name)

    def _first_at(self, nodes: Nodes, cumulative: str, threshold: str, name: str) -> str:
        """Return the first symbol [B] at which `cumulative` [B, V] reaches `threshold` [B, 1].

        Capped at the threshold, the sums have their first maximum there. If rounding keeps all of them below it, the
        result is the last symbol that added anything: never one of probability 0.
        """
        return nodes.add("ArgMax", [nodes.add("Min", [cumulative, threshold], f"{name}_cut")], name, axis=1, keepdims=0)
