"""The graph that reads given symbols and scores them.

    steps int64 [], tokens int64 [T, B], targets int64 [T, B], h, c float [L, B, H]
        -> log_probabilities float [T, B], h_out, c_out float [L, B, H]

`log_probabilities[t, b]` is that of `targets[t, b]` after `tokens[: t + 1, b]`. Only the targets' are returned: to
return all V would be most of the work of a small model; another graph does it, without `targets`. All steps share one
output product.

The ragged variant takes rows of different lengths: `length` int64 [B, 1]; a row keeps its state after its last symbol,
and its later log-probabilities mean nothing.

What a row gets depends on that row alone, has the same bits however its symbols are divided into runs, and the same
bits as in the writing graph when that writes these symbols.
"""

# Shape suffixes: B rows, T steps, L layers, H hidden, V vocabulary.

from enum import Enum

import numpy as np
from onnx import TensorProto

from segue_export.graphs.loop import Repetition, Value, Values, serialize
from segue_export.graphs.portable import Constants
from segue_export.graphs.step import Nodes, Step, state_parts


class Result(Enum):
    """What a reading graph returns for each step."""

    OF_TARGETS = "log_probabilities"
    """[T, B]: the log-probabilities of the targets, an input."""
    OF_ALL = "all_log_probabilities"
    """[T, B, V]: the log-probabilities of all symbols."""
    LOGITS = "logits"
    """[T, B, V]: to evaluate a model as the server computes it."""


def reading_graph(step: Step, *, ragged: bool, unrolled: int = 0, result: Result = Result.OF_TARGETS) -> bytes:
    """Return the serialized graph; `unrolled` is the number of unrolled steps, 0 for a loop of any length."""
    manifest = step.manifest

    def read(nodes: Nodes, index: str, before: Values) -> tuple[Values, Values]:
        after = step.states(nodes, nodes.add("Gather", ["tokens", index], "token", axis=0), before)
        if ragged:
            inside = nodes.add("Less", [index, "length"], "going_on")
            for part in state_parts(manifest):
                after[part] = nodes.add("Where", [inside, after[part], before[part]], f"{part}_kept")
        return after, {"tops": nodes.add("Identity", [after[f"h{manifest.layers - 1}"]], "top_now")}

    repetition = Repetition(
        manifest, (), [Value("tops", TensorProto.FLOAT, ("batch", manifest.hidden))], read, unrolled
    )
    texts = [Value("tokens", TensorProto.INT64, ("time", "batch"))]
    if ragged:
        texts.append(Value("length", TensorProto.INT64, ("batch", 1)))
    if result is Result.OF_TARGETS:
        texts.append(Value("targets", TensorProto.INT64, ("time", "batch")))
        declared = Value(result.value, TensorProto.FLOAT, ("time", "batch"))
    else:
        declared = Value(result.value, TensorProto.FLOAT, ("time", "batch", len(manifest.vocabulary)))
    output, constants = _output(step, result)
    return serialize(
        [*repetition.nodes(), *output.nodes],
        [*repetition.inputs, *(value.declared for value in texts)],
        [*repetition.outputs, declared.declared],
        step.constants | repetition.constants | constants,
    )


def _output(step: Step, result: Result) -> tuple[Nodes, Constants]:
    """From tops [T, B, H] to the result; all steps share one product."""
    nodes = Nodes()
    constants: Constants = {"top_rows": np.array([-1, step.manifest.hidden], dtype=np.int64)}
    logits = step.logits(Nodes("_together", nodes.nodes), nodes.add("Reshape", ["tops", "top_rows"], "tops_together"))
    scores = logits if result is Result.LOGITS else nodes.add("LogSoftmax", [logits], "scores", axis=1)
    if result is Result.OF_TARGETS:
        constants["column"] = np.array([-1, 1], dtype=np.int64)
        column = nodes.add("Reshape", ["targets", "column"], "targets_together")
        chosen = nodes.add("GatherElements", [scores, column], "scores_of_targets", axis=1)
        shape = nodes.add("Shape", ["targets"], "text_shape")
        nodes.add("Reshape", [chosen, shape], result.value)
    else:
        constants["vocabulary"] = np.array([len(step.manifest.vocabulary)], dtype=np.int64)
        two = nodes.add("Shape", ["tokens"], "text_shape")
        shape = nodes.add("Concat", [two, "vocabulary"], "shape_of_all", axis=0)
        nodes.add("Reshape", [scores, shape], result.value)
    return nodes, constants
