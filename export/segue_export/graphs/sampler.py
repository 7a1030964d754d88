"""The nodes that choose a symbol: inverse-CDF sampling, and the filters top-k, top-p and min-p.

A filter needs the likeliest symbols in order. A large vocabulary is not sorted whole: the likeliest few are selected,
and everything is sorted only in a step in which a row keeps more than these. Which of the two it is changes no result.
"""

# Shape suffixes: B rows, V vocabulary, R ranks (the symbols in order of likelihood), S states of the automaton.

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper

from segue_export.graphs.portable import Constants
from segue_export.graphs.step import Nodes

GREEDY: Final = 2.0**66
"""An inverse temperature at which only the likeliest symbols have a chance. A power of two, so that different logits
stay different."""

UNIFORM_BITS: Final = 23
"""Of a uniform number: (n + 1/2) / 2^23, for n from 0 to 2^23 - 1, is exact in float32 and neither 0 nor 1."""

_LARGEST_TRIANGLE: Final = 160
"""The largest vocabulary for which a product with a triangle of ones is faster than CumSum."""

_LARGEST_SORTED: Final = 1024
"""The largest vocabulary that is always sorted whole."""

_SELECTED: Final = 512
"""How many of the likeliest symbols are selected first, or else the largest top_k of the batch."""


class Sampler:
    """Adds the nodes; `constants` are the initializers that they refer to."""

    def __init__(
        self, vocabulary: int, next_SV: NDArray[np.int64] | None, *, filtered: bool, sorts_all: bool = False
    ) -> None:
        """`next_SV` is the automaton, None if any symbol may follow any other; `sorts_all`: never select first."""
        self._filtered = filtered
        self._is_large = vocabulary > _LARGEST_SORTED
        self._selects = filtered and self._is_large and not sorts_all
        self._triangle = vocabulary <= _LARGEST_TRIANGLE
        self.constants: Constants = {}
        if self._triangle:
            self.constants["triangle"] = np.triu(np.ones((vocabulary, vocabulary), dtype=np.float32))
        else:
            self.constants["symbol_axis"] = np.array(1, dtype=np.int64)
        if filtered:
            self.constants |= {
                "ranks": np.arange(vocabulary, dtype=np.int64)[np.newaxis],
                "every_rank": np.array([vocabulary], dtype=np.int64),
                "first_rank": np.array([0], dtype=np.int64),
                "last_rank": np.array([-1], dtype=np.int64),
                "excluded": np.array(0, dtype=np.float32),
                "rank_axis": np.array([1], dtype=np.int64),
            }
        if self._selects:
            self.constants |= {
                "batch_axis": np.array([0], dtype=np.int64),
                "fewest_selected": np.array([[_SELECTED]], dtype=np.int64),
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
        if not self._filtered:
            return self._first_at(nodes, self._cumulative(nodes, p, "cumulative"), uniform, "token_next")
        row = _Row(p, uniform, "top_k", "top_p", "min_p", self._sum(nodes, p) if self._is_large else None)
        if self._selects:
            return self._draw_of_few(nodes, row)
        return self._draw(nodes, row, _rank_all(nodes, p))

    def spell(self, nodes: Nodes, spelling: str, token: str) -> str:
        """Return the automaton's states [B] after `token`."""
        row = nodes.add("Mul", [spelling, "symbols"], "spelling_row")
        return nodes.add("Gather", ["next_spelling", nodes.add("Add", [row, token], "spelling_at")], "spelling_next")

    def _draw_of_few(self, nodes: Nodes, row: "_Row") -> str:
        """Draw from the likeliest few symbols; in rows that keep more, from all."""
        few = _ranked(nodes, row.p, *self._count(nodes))
        token, more = self._draw(nodes, row, few), self._keeps_more(nodes, row, few)
        again, before = Nodes(f"{nodes.label}_again"), Nodes(f"{nodes.label}_before")
        self._draw_again(again, row, more, token)
        before.add("Identity", [token], "token_kept")
        branches = {"then_branch": _branch(again), "else_branch": _branch(before)}
        most = nodes.add("ReduceMax", [more], "keeps_more_most", keepdims=0)
        any_more = nodes.add("Cast", [most], "keeps_more_any", to=TensorProto.BOOL)
        return nodes.add("If", [any_more], "token_of_either", **branches)

    def _draw_again(self, nodes: Nodes, row: "_Row", more: str, token: str) -> None:
        """Draw from all symbols in the rows that keep `more`, and replace their `token`."""
        at = nodes.add("NonZero", [nodes.add("Squeeze", [more, "rank_axis"], "more_by_row")], "more_rows")
        at = nodes.add("Squeeze", [at, "batch_axis"], "more_at")

        def in_rows(value: str) -> str:
            return nodes.add("Gather", [value, at], f"{value}_again", axis=0)

        rows = _Row(
            p=in_rows(row.p),
            uniform=in_rows(row.uniform),
            top_k=in_rows(row.top_k),
            top_p=in_rows(row.top_p),
            min_p=in_rows(row.min_p),
            whole=row.whole and in_rows(row.whole),
        )
        tokens = self._draw(nodes, rows, _rank_all(nodes, rows.p))
        nodes.add("ScatterElements", [token, at, tokens], "token_kept")

    def _count(self, nodes: Nodes) -> tuple[str, str]:
        """Return how many symbols to select, int64 [1], and their ranks."""
        bounded = nodes.add(
            "Where", [self._is_bounded(nodes, "top_k", "count"), "top_k", "fewest_selected"], "top_k_bounded"
        )
        largest = nodes.add("ReduceMax", [bounded], "top_k_largest", axes=[0], keepdims=1)
        most = nodes.add("Max", [largest, "fewest_selected"], "most_selected")
        count = nodes.add("Squeeze", [most, "batch_axis"], "select_count")
        return count, nodes.add("Slice", ["ranks", "first_rank", count, "rank_axis"], "ranks_selected")

    def _keeps_more(self, nodes: Nodes, row: "_Row", few: "_Ranked") -> str:
        """Return 1 for each row that may keep more symbols than `few`, otherwise 0: int32 [B, 1]."""
        reached = nodes.add("Gather", [self._cumulative(nodes, few.p, "few_sums"), "last_rank"], "few_sum", axis=1)
        short = nodes.add("Less", [reached, nodes.add("Mul", [row.whole or "", row.top_p], "few_limit")], "few_short")
        last = nodes.add("Gather", [few.p, "last_rank"], "few_last", axis=1)
        large = nodes.add("GreaterOrEqual", [last, self._least(nodes, few.p, row.min_p, "few")], "few_large")
        unbounded = nodes.add("Not", [self._is_bounded(nodes, row.top_k, "more")], "top_k_unbounded")
        more = nodes.add("And", [unbounded, nodes.add("And", [short, large], "few_cut")], "keeps_more")
        return nodes.add("Cast", [more], "keeps_more_number", to=TensorProto.INT32)

    def _draw(self, nodes: Nodes, row: "_Row", ranked: "_Ranked") -> str:
        """Return the ids [B] drawn from the symbols that all filters keep."""
        inside = nodes.add("Less", [ranked.ranks, row.top_k], "in_top_k")
        kept = nodes.add("Where", [inside, ranked.p, "excluded"], "kept_k")
        kept = self._keep_top_p(nodes, row, kept)
        too_small = nodes.add("Less", [kept, self._least(nodes, kept, row.min_p, "kept")], "below_min_p")
        kept = nodes.add("Where", [too_small, "excluded", kept], "kept_min_p")
        cumulative = self._cumulative(nodes, kept, "cumulative")
        total = nodes.add("Gather", [cumulative, "last_rank"], "total", axis=1)
        rank = self._first_at(nodes, cumulative, nodes.add("Mul", [row.uniform, total], "threshold"), "rank")
        rank = nodes.add("Unsqueeze", [rank, "rank_axis"], "rank_column")
        chosen = nodes.add("GatherElements", [ranked.symbols, rank], "chosen", axis=1)
        return nodes.add("Squeeze", [chosen, "rank_axis"], "token_next")

    def _keep_top_p(self, nodes: Nodes, row: "_Row", p: str) -> str:
        """Keep each symbol before which the sum is less than top_p of the whole."""
        cumulative = self._cumulative(nodes, p, "reached")
        whole = nodes.add("Gather", [cumulative, "last_rank"], "whole", axis=1)
        if row.whole is None:
            before = nodes.add("Sub", [cumulative, p], "before")
        else:  # neither may depend on how many symbols are ranked
            before = nodes.add("CumSum", [p, "symbol_axis"], "before", exclusive=1)
            whole = nodes.add("Where", [self._is_bounded(nodes, row.top_k, "whole"), whole, row.whole], "whole_of_row")
        inside = nodes.add("Less", [before, nodes.add("Mul", [whole, row.top_p], "limit_p")], "in_top_p")
        return nodes.add("Where", [inside, p, "excluded"], "kept_p")

    @staticmethod
    def _least(nodes: Nodes, p: str, min_p: str, name: str) -> str:
        """Return the least probability that min_p keeps, [B, 1]."""
        likeliest = nodes.add("Gather", [p, "first_rank"], f"{name}_likeliest", axis=1)
        return nodes.add("Mul", [likeliest, min_p], f"{name}_least")

    @staticmethod
    def _is_bounded(nodes: Nodes, top_k: str, name: str) -> str:
        """Return whether top_k leaves out any symbol, bool [B, 1]."""
        return nodes.add("Less", [top_k, "every_rank"], f"{name}_bounded")

    @staticmethod
    def _sum(nodes: Nodes, p: str) -> str:
        """Return the sum of `p`, [B, 1], which is 1 up to rounding."""
        return nodes.add("ReduceSum", [p, "rank_axis"], "sum_p", keepdims=1)

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


@dataclass(frozen=True)
class _Row:
    """What a row draws from, and how; [B, V] or [B, 1]."""

    p: str
    uniform: str
    top_k: str
    top_p: str
    min_p: str
    whole: str | None
    """The sum of `p`, for rows without top_k; None: as the ranked symbols sum up."""


@dataclass(frozen=True)
class _Ranked:
    """The R likeliest symbols of each row, likeliest first; of equals, the lowest id."""

    p: str
    """float [B, R]"""
    symbols: str
    """int64 [B, R]"""
    ranks: str
    """0 to R - 1, int64 [1, R]"""


def _rank_all(nodes: Nodes, p: str) -> _Ranked:
    return _ranked(nodes, p, "every_rank", "ranks")


def _ranked(nodes: Nodes, p: str, count: str, ranks: str) -> _Ranked:
    ranked, symbols = f"sorted{nodes.label}", f"order{nodes.label}"
    nodes.nodes.append(helper.make_node("TopK", [p, count], [ranked, symbols], axis=1))
    return _Ranked(ranked, symbols, ranks)


def _branch(nodes: Nodes) -> GraphProto:
    """Return a branch of an If, which refers to the values around it."""
    token = helper.make_tensor_value_info(f"token_kept{nodes.label}", TensorProto.INT64, ["batch"])
    return helper.make_graph(nodes.nodes, nodes.label, [], [token])
