"""The graph that writes: several steps in one run, each of which chooses the symbol that the next one reads.

    steps int64 [], token int64 [B], h, c float [L, B, H], uniform float [K, B, 1], inverse_temperature float [B, 1],
    bias float [B or 1, V]
        -> ids int64 [K, B], h_out, c_out float [L, B, H]

`token` is the last symbol before the state (h, c), `uniform` one random number in (0, 1) for each symbol. A symbol is
chosen by inverting the cumulative distribution of softmax((logits + bias) / temperature). Temperature 0 is
`GREEDY` as inverse temperature and any uniform below 1/V; a bias of minus infinity bars a symbol.

Variants have more inputs and outputs:

    filtered     top_k int64, top_p, min_p float [B, 1]: draws from the symbols that top-k, top-p and min-p keep, in the
                 order of likelihood (so the same uniforms choose other symbols than without filters)
    scored       -> log_probabilities float [K, B] of the chosen symbols, under the model itself, without bias and
                 temperature
    alternatives alternatives int64 [1] -> likeliest int64, likeliest_log_probabilities float [K, B, A]: the A likeliest
                 symbols of the model itself but `<unk>`, of equals the lowest id first
    spelled      spelling int64 [B] -> spelling_out int64 [B]: the state of an automaton that bars symbols, given as a
                 table of next states [S, V], -1 for barred

Unrolled, a graph has a fixed number of steps K, states in pools instead of h and c (see `unrolled`), and a constant
instead of `alternatives`.

What a row gets depends on that row alone, and has the same bits for any K (two runs of K equal one of 2 K).
`scored` and `alternatives` change no other output.
"""

# Shape suffixes: B rows, K steps, L layers, H hidden, V vocabulary, A alternatives, S states of the automaton.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from segue_export.graphs.loop import Repetition, Value, Values, serialize
from segue_export.graphs.portable import Constants
from segue_export.graphs.ranking import Ranking
from segue_export.graphs.sampler import Sampler
from segue_export.graphs.step import Nodes, Step
from segue_export.graphs.unrolled import Unrolled


@dataclass(frozen=True)
class WritingVariant:
    """What a graph does beyond sampling by temperature and bias."""

    filtered: bool = False
    scored: bool = False
    alternatives: bool = False
    unrolled: int = 0
    """The number of unrolled steps, as CUDA needs them; 0: a loop of any length."""
    ranked: int = 0
    """How many alternatives an unrolled graph returns."""


def writing_graph(step: Step, variant: WritingVariant, next_SV: NDArray[np.int64] | None = None) -> bytes:
    """Return the serialized graph; `next_SV` is the automaton, None if any symbol may follow any other."""
    manifest, vocabulary = step.manifest, len(step.manifest.vocabulary)
    sampler = Sampler(vocabulary, next_SV, filtered=variant.filtered, sorts_all=variant.unrolled > 0)
    ranking = Ranking()

    def write(nodes: Nodes, index: str, before: Values) -> tuple[Values, Values]:
        after = step.states(nodes, before["token"], before)
        logits = step.logits(nodes, after[f"h{manifest.layers - 1}"])
        uniform = nodes.add("Gather", ["uniform", index], "uniform_now", axis=0)
        after["token"] = sampler.choose(nodes, logits, uniform, before.get("spelling"))
        collected = {"ids": nodes.add("Identity", [after["token"]], "id")}
        if next_SV is not None:
            after["spelling"] = sampler.spell(nodes, before["spelling"], after["token"])
        if variant.scored or variant.alternatives:
            scores = nodes.add("LogSoftmax", [logits], "scores", axis=1)
        if variant.scored:
            chosen = ranking.of_ids(nodes, scores, after["token"])
            collected["log_probabilities"] = nodes.add("Squeeze", [chosen, "score_axis"], "score_chosen")
        if variant.alternatives:
            names = ("likeliest", "likeliest_log_probabilities")
            collected |= zip(names, ranking.likeliest(nodes, scores, "alternatives"), strict=True)
        return after, collected

    further = [Value("token", TensorProto.INT64, ("batch",))]
    if next_SV is not None:
        further.append(Value("spelling", TensorProto.INT64, ("batch",)))
    collected = _collected(variant)
    repetition: Repetition | Unrolled = Repetition(manifest, further, collected, write)
    constants: Constants = {}
    if variant.unrolled:
        repetition = Unrolled(manifest, further, collected, write, variant.unrolled)
    if variant.unrolled and variant.alternatives:
        constants["alternatives"] = np.array([variant.ranked], dtype=np.int64)
    outputs = [Value(value.name, value.element, ("steps", *value.shape)).declared for value in collected]
    if next_SV is not None:
        outputs.append(Value("spelling_out", TensorProto.INT64, ("batch",)).declared)
    return serialize(
        repetition.nodes(),
        [*repetition.inputs, *(value.declared for value in _inputs(vocabulary, variant))],
        [*repetition.outputs, *outputs],
        step.constants | sampler.constants | ranking.constants | repetition.constants | constants,
        step.given,
    )


def _collected(variant: WritingVariant) -> list[Value]:
    """Return the outputs of each step."""
    collected = [Value("ids", TensorProto.INT64, ("batch",))]
    if variant.scored:
        collected.append(Value("log_probabilities", TensorProto.FLOAT, ("batch",)))
    if variant.alternatives:
        collected.append(Value("likeliest", TensorProto.INT64, ("batch", "ranks")))
        collected.append(Value("likeliest_log_probabilities", TensorProto.FLOAT, ("batch", "ranks")))
    return collected


def _inputs(vocabulary: int, variant: WritingVariant) -> list[Value]:
    inputs = [
        Value("uniform", TensorProto.FLOAT, ("steps", "batch", 1)),
        Value("inverse_temperature", TensorProto.FLOAT, ("batch", 1)),
        Value("bias", TensorProto.FLOAT, ("bias_rows", vocabulary)),
    ]
    if variant.filtered:
        inputs.append(Value("top_k", TensorProto.INT64, ("batch", 1)))
        inputs += [Value(name, TensorProto.FLOAT, ("batch", 1)) for name in ("top_p", "min_p")]
    if variant.alternatives and not variant.unrolled:
        inputs.append(Value("alternatives", TensorProto.INT64, (1,)))
    return inputs
