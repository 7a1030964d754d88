"""A row: one text, or one part of it, and its score."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from segue_client.messages.score import Score

EXCERPT_CHARACTERS: Final = 60


@dataclass(frozen=True)
class Row:
    """What is told of one text, or of one of its parts."""

    name: str
    """Where it stands."""
    score: Score
    """With what there is of each character, where requested."""
    text: str | None = None
    """The text itself, where it is to be shown."""
    place: Mapping[str, object] = field(default_factory=dict)
    """Where it stands, for a script to read."""

    @property
    def excerpt(self) -> str:
        """The text, or as much of a window as tells what it is."""
        text = self.text or ""
        is_short = "line" in self.place or len(text) <= EXCERPT_CHARACTERS
        return text if is_short else f"{text[: EXCERPT_CHARACTERS - 1]}…"


def row_fields(row: Row) -> dict[str, object]:
    """Return the row for a script to read."""
    text = {} if row.text is None else {"text": row.text}
    return {"name": row.name, **row.place, **text, **score_fields(row.score)}


def score_fields(score: Score) -> dict[str, object]:
    """Return a score for a script to read; what has no value, or none that JSON knows, is null."""
    fields: dict[str, object] = {
        "sum_log_probability": score.sum_log_probability,
        "scored_count": score.scored_count,
        "unknown_count": score.unknown_count,
        "perplexity": _finite(score.perplexity),
        "bits_per_character": score.bits_per_character,
    }
    if score.log_probabilities:
        fields["log_probabilities"] = score.log_probabilities
    if score.ranks:
        fields["ranks"] = score.ranks
    if score.alternatives:
        fields["alternatives"] = [[each._asdict() for each in place] for place in score.alternatives]
    return fields


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
