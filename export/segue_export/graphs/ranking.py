"""Nodes that compare the scores of symbols: which are the likeliest, and how many are likelier than a given one."""

# Shape suffixes: N rows, or [T, B] of them, V vocabulary, A alternatives.

import numpy as np
from onnx import TensorProto, helper

from segue_export.graphs.portable import Constants
from segue_export.graphs.step import Nodes


class Ranking:
    """Adds the nodes; `constants` are the initializers that they refer to. Scores are [N, V]; id 0 is `<unk>`."""

    def __init__(self) -> None:
        self.constants: Constants = {
            "score_axis": np.array([-1], dtype=np.int64),
            "first_known": np.array([1], dtype=np.int64),
            "no_end": np.array([2**31], dtype=np.int64),
            "one": np.array(1, dtype=np.int64),
        }

    def of_ids(self, nodes: Nodes, scores: str, ids: str) -> str:
        """Return the scores [N, 1] of `ids` [N]."""
        column = nodes.add("Unsqueeze", [ids, "score_axis"], "ids_column")
        return nodes.add("GatherElements", [scores, column], "score_of_id", axis=-1)

    def ranks(self, nodes: Nodes, scores: str, of_ids: str) -> str:
        """Return how many scores are higher than `of_ids` [N, 1], plus 1: int64 [N]."""
        likelier = nodes.add("Greater", [scores, of_ids], "likelier")
        # A sum of float32 counts exactly up to 2^24, more than there are code points.
        counted = nodes.add("Cast", [likelier], "likelier_each", to=TensorProto.FLOAT)
        count = nodes.add("ReduceSum", [counted, "score_axis"], "likelier_sum", keepdims=0)
        return nodes.add(
            "Add", [nodes.add("Cast", [count], "likelier_count", to=TensorProto.INT64), "one"], "rank_of_id"
        )

    def likeliest(self, nodes: Nodes, scores: str, most: str) -> tuple[str, str]:
        """Return ids and scores [N, A] of the `most` (int64 [1]) likeliest symbols but `<unk>`.

        They are in descending order; of equals, the lowest id comes first.
        """
        known = nodes.add("Slice", [scores, "first_known", "no_end", "score_axis"], "scores_known")
        of, at = f"ranked_scores{nodes.label}", f"ranked_known{nodes.label}"
        nodes.nodes.append(helper.make_node("TopK", [known, most], [of, at], axis=-1))
        return nodes.add("Add", [at, "one"], "ranked_ids"), of
