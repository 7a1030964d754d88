"""A row: one text, or one part of it, and its score."""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from segue_client.messages.score import Score

EXCERPT_CHARACTERS: Final = 60

_FIELDS: Final = ("sum_log_probability", "scored_count", "unknown_count", "perplexity", "bits_per_character")
"""Of a score, for a script."""

Order = Literal["surprising", "expected"]
Measure = Literal["mean", "sum"]
"""The mean surprisal per character, or the surprisal of the whole row."""


@dataclass(frozen=True)
class Row:
    """One text, or one part of it, as it is printed."""

    name: str
    score: Score
    """With per-character values where requested."""
    text: str | None = None
    """The text, if it is shown."""
    place: Mapping[str, object] = field(default_factory=dict)
    """Its position, as fields for a script."""
    error: str | None = None
    """Why it has no score."""

    @property
    def excerpt(self) -> str:
        """The text; only the beginning of a long window."""
        text = self.text or ""
        is_short = "line" in self.place or len(text) <= EXCERPT_CHARACTERS
        return text if is_short else f"{text[: EXCERPT_CHARACTERS - 1]}…"

    def fields(self) -> dict[str, object]:
        """Return the row as JSON fields."""
        text = {} if self.text is None else {"text": self.text}
        if self.error is not None:
            return {"name": self.name, **self.place, **text, "error": self.error}
        return {"name": self.name, **self.place, **text, **score_fields(self.score)}


def sorted_rows(rows: Iterable[Row], order: Order, measure: Measure, top: int | None) -> Iterator[Row]:
    """Yield the rows, or the first `top` of them, holding no more in memory; equal rows keep their order.

    Rows without scored characters, as all bad ones are, are dropped.
    """
    sign = -1 if order == "surprising" else 1
    keyed = (
        (sign * surprisal, number, row)
        for number, row in enumerate(rows)
        if (surprisal := _surprisal(row.score, measure)) is not None
    )
    chosen = sorted(keyed) if top is None else heapq.nsmallest(top, keyed)
    yield from (row for _, _, row in chosen)


def _surprisal(score: Score, measure: Measure) -> float | None:
    return score.mean_surprisal if measure == "mean" or not score.scored_count else -score.sum_log_probability


def score_fields(score: Score) -> dict[str, object]:
    """Return a score as JSON fields; an undefined or infinite value is null."""
    values = score.as_dict()
    fields = {name: None if values[name] == math.inf else values[name] for name in _FIELDS}
    if score.log_probabilities:
        fields["log_probabilities"] = score.log_probabilities
    if score.ranks:
        fields["ranks"] = score.ranks
    if score.alternatives:
        fields["alternatives"] = [[each._asdict() for each in place] for place in score.alternatives]
    return fields


def totals(score: Score) -> Score:
    """Return the sums alone, which add up without growing."""
    return Score(
        sum_log_probability=score.sum_log_probability,
        scored_count=score.scored_count,
        unknown_count=score.unknown_count,
    )
