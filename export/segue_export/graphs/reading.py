"""The graph that reads given symbols and scores them.

    steps int64 [], tokens int64 [T, B], targets int64 [T, B], h, c float [L, B, H]
        -> log_probabilities float [T, B], h_out, c_out float [L, B, H]

`log_probabilities[t, b]` is that of `targets[t, b]` after `tokens[: t + 1, b]`. Only the targets' are returned: to
return all V would be most of the work of a small model. All steps share one output product.

The detailed variant compares the targets with all symbols:

    alternatives int64 [1]
        -> ranks int64 [T, B], likeliest int64, likeliest_log_probabilities float [T, B, A]

`ranks` says how many symbols are likelier than the target, plus 1; the others are as in the writing graph.

The ragged variant takes rows of different lengths: `length` int64 [B, 1]; a row keeps its state after its last symbol,
and its later log-probabilities mean nothing.

Unrolled, a graph has a fixed number of steps T, states in pools instead of h and c (see `unrolled`), a constant instead
of `alternatives`, and an output product for each step: its kernels may depend on the shapes, which so are the same for
any T.

What a row gets depends on that row alone, has the same bits however its symbols are divided into runs, and the same
bits as in the writing graph when that writes these symbols.
"""

# Shape suffixes: B rows, T steps, L layers, H hidden, V vocabulary, A alternatives.

from enum import Enum

import numpy as np
from onnx import TensorProto

from segue_export.graphs.loop import Repetition, Value, Values, serialize
from segue_export.graphs.portable import Constants
from segue_export.graphs.ranking import Ranking
from segue_export.graphs.step import Nodes, Step, state_parts
from segue_export.graphs.unrolled import Unrolled


class Result(Enum):
    """What a reading graph returns for each step."""

    OF_TARGETS = "log_probabilities"
    """[T, B]: the log-probabilities of the targets, an input."""
    IN_DETAIL = "ranks"
    """The same, the targets' ranks, and the likeliest symbols."""
    LOGITS = "logits"
    """[T, B, V]: to evaluate a model as the server computes it."""


def reading_graph(
    step: Step, *, ragged: bool, unrolled: int = 0, ranked: int = 0, result: Result = Result.OF_TARGETS
) -> bytes:
    """Return the serialized graph; `unrolled` is the number of unrolled steps, 0 for a loop of any length.

    `ranked`: how many alternatives an unrolled graph returns.
    """
    manifest, vocabulary = step.manifest, len(step.manifest.vocabulary)

    def read(nodes: Nodes, index: str, before: Values) -> tuple[Values, Values]:
        after = step.states(nodes, nodes.add("Gather", ["tokens", index], "token", axis=0), before)
        if ragged:
            inside = nodes.add("Less", [index, "length"], "going_on")
            for part in state_parts(manifest):
                after[part] = nodes.add("Where", [inside, after[part], before[part]], f"{part}_kept")
        top = after[f"h{manifest.layers - 1}"]
        if unrolled:
            return after, {"logits": step.logits(nodes, top)}
        return after, {"tops": nodes.add("Identity", [top], "top_now")}

    if unrolled:
        logits = Value("logits", TensorProto.FLOAT, ("batch", vocabulary))
        repetition: Repetition | Unrolled = Unrolled(manifest, (), [logits], read, unrolled)
        nodes, constants = _of_steps(result, ranked)
    else:
        tops = Value("tops", TensorProto.FLOAT, ("batch", manifest.hidden))
        repetition = Repetition(manifest, (), [tops], read)
        nodes, constants = _of_all(step, result)
    texts = _texts(result, ragged=ragged, counted=not unrolled)
    return serialize(
        [*repetition.nodes(), *nodes.nodes],
        [*repetition.inputs, *(value.declared for value in texts)],
        [*repetition.outputs, *(value.declared for value in _outputs(result, vocabulary))],
        step.constants | repetition.constants | constants,
        step.given,
    )


def _texts(result: Result, *, ragged: bool, counted: bool) -> list[Value]:
    """Return the inputs besides the state. `counted`: whether the number of alternatives is one."""
    texts = [Value("tokens", TensorProto.INT64, ("time", "batch"))]
    if ragged:
        texts.append(Value("length", TensorProto.INT64, ("batch", 1)))
    if result is not Result.LOGITS:
        texts.append(Value("targets", TensorProto.INT64, ("time", "batch")))
    if result is Result.IN_DETAIL and counted:
        texts.append(Value("alternatives", TensorProto.INT64, (1,)))
    return texts


def _outputs(result: Result, vocabulary: int) -> list[Value]:
    """Return the outputs besides the state."""
    if result is Result.LOGITS:
        return [Value("logits", TensorProto.FLOAT, ("time", "batch", vocabulary))]
    outputs = [Value("log_probabilities", TensorProto.FLOAT, ("time", "batch"))]
    if result is Result.IN_DETAIL:
        outputs.append(Value("ranks", TensorProto.INT64, ("time", "batch")))
        outputs.append(Value("likeliest", TensorProto.INT64, ("time", "batch", "ranked")))
        outputs.append(Value("likeliest_log_probabilities", TensorProto.FLOAT, ("time", "batch", "ranked")))
    return outputs


def _of_steps(result: Result, ranked: int) -> tuple[Nodes, Constants]:
    """From logits [T, B, V] to the result."""
    nodes, ranking = Nodes(), Ranking()
    if result is Result.LOGITS:
        return nodes, {}
    scores = nodes.add("LogSoftmax", ["logits"], "scores", axis=-1)
    of_targets = ranking.of_ids(nodes, scores, "targets")
    nodes.add("Squeeze", [of_targets, "score_axis"], "log_probabilities")
    if result is Result.OF_TARGETS:
        return nodes, ranking.constants
    nodes.add("Identity", [ranking.ranks(nodes, scores, of_targets)], "ranks")
    ids, log_probabilities = ranking.likeliest(nodes, scores, "alternatives")
    nodes.add("Identity", [ids], "likeliest")
    nodes.add("Identity", [log_probabilities], "likeliest_log_probabilities")
    return nodes, ranking.constants | {"alternatives": np.array([ranked], dtype=np.int64)}


def _of_all(step: Step, result: Result) -> tuple[Nodes, Constants]:
    """From tops [T, B, H] to the result; all steps share one product."""
    nodes = Nodes()
    constants: Constants = {"top_rows": np.array([-1, step.manifest.hidden], dtype=np.int64)}
    logits = step.logits(Nodes("_together", nodes.nodes), nodes.add("Reshape", ["tops", "top_rows"], "tops_together"))
    if result is Result.LOGITS:
        return nodes, constants | _reshape(nodes, logits, "tokens", "logits", len(step.manifest.vocabulary))
    scores = nodes.add("LogSoftmax", [logits], "scores", axis=1)
    ranking = Ranking()
    constants |= ranking.constants | {"flat": np.array([-1], dtype=np.int64)}
    targets = nodes.add("Reshape", ["targets", "flat"], "targets_together")
    of_targets = ranking.of_ids(nodes, scores, targets)
    constants |= _reshape(nodes, of_targets, "targets", "log_probabilities")
    if result is Result.IN_DETAIL:
        constants |= _reshape(nodes, ranking.ranks(nodes, scores, of_targets), "targets", "ranks")
        ids, log_probabilities = ranking.likeliest(nodes, scores, "alternatives")
        constants |= _reshape(nodes, ids, "targets", "likeliest", -1)
        constants |= _reshape(nodes, log_probabilities, "targets", "likeliest_log_probabilities", -1)
    return nodes, constants


def _reshape(nodes: Nodes, value: str, text: str, output: str, last: int | None = None) -> Constants:
    """Reshape `value` [T x B, ...] to [T, B], the shape of `text`, with a `last` axis if given (-1: what is left)."""
    shape = nodes.add("Shape", [text], f"{output}_text_shape")
    if last is None:
        nodes.add("Reshape", [value, shape], output)
        return {}
    shape = nodes.add("Concat", [shape, f"{output}_last"], f"{output}_shape", axis=0)
    nodes.add("Reshape", [value, shape], output)
    return {f"{output}_last": np.array([last], dtype=np.int64)}
