"""The most surprising rows, or the least, first."""

import heapq
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from segue_client.commands.score.rows import Row

Order = Literal["surprising", "expected"]
Measure = Literal["mean", "sum"]
"""By the mean surprisal of a row's characters, or by that of the whole row."""

_SIGNS: Final[dict[Order, int]] = {"surprising": -1, "expected": 1}


def sorted_rows(rows: Iterable[Row], order: Order, measure: Measure, top: int | None) -> Iterator[Row]:
    """Yield the rows, or the `top` first of them, in memory for as many; equal ones as they came.

    Rows of which nothing was scored are left out.
    """
    sign = _SIGNS[order]
    keyed = (
        (sign * surprisal, number, row)
        for number, row in enumerate(rows)
        if (surprisal := _surprisal(row, measure)) is not None
    )
    chosen = sorted(keyed) if top is None else heapq.nsmallest(top, keyed)
    yield from (row for _, _, row in chosen)


def _surprisal(row: Row, measure: Measure) -> float | None:
    if measure == "mean" or not row.score.scored_count:
        return row.score.mean_surprisal
    return -row.score.sum_log_probability
