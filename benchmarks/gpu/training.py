"""How fast and how well it trains: d2l's models beside their published speeds, and the large recipe."""

from collections.abc import Iterator
from typing import Final

from gpu.finding import Finding
from gpu.scale import Scale
from gpu.training_runs import DEFAULT, Measured, agreements, qualities, speeds

_QUALITY_SHARE: Final = 0.9
"""Of the seconds that are left, for the large recipe."""
_LONGEST: Final = 540.0
"""Seconds of one training: the goal is under ten minutes."""
_GOAL: Final = 1.40
"""Nats per character of tinyshakespeare."""


def speed(scale: Scale) -> Iterator[Finding]:
    """Time every recipe of d2l's chapters."""
    for row in speeds(scale.corpus, scale.device, 5 * scale.seconds):
        if row.tokens_per_second is None:
            yield _failed(f"trains {row.name}", row)
            continue
        published = f"{row.ratio:.2f} of the published {row.published:,.0f}" if row.ratio else ""
        yield Finding(f"trains {row.name}", row.tokens_per_second, "tokens/s", note=_with_notes(published, row))


def agreement(scale: Scale) -> Iterator[Finding]:
    """Compare recorded with eager steps, and a run with itself."""
    for row in agreements(scale.corpus, scale.device):
        if row.same_bits is None:
            yield _failed(f"losses, {row.name}", row)
            continue
        found = "the same bits" if row.same_bits else f"{row.largest_difference:.1e} nats apart at most"
        demanded = row.same_bits if row.name.endswith("deterministic") else None
        yield Finding(f"losses, {row.name}", found, passed=demanded, note=_with_notes("", row))


def quality(scale: Scale) -> Iterator[Finding]:
    """Train the large recipe for as long as there is time, in bfloat16."""
    seconds = min(_LONGEST, _QUALITY_SHARE * scale.seconds_left) if scale.on_gpu else 2.0
    for row in qualities(scale.corpus, scale.device, seconds, (DEFAULT,), ("bfloat16",)):
        if row.nats is None or row.seconds is None or row.characters_per_second is None:
            yield _failed(f"learns {row.name} {row.precision}", row)
            continue
        note = f"{row.steps:,} steps, {row.seconds:.0f} s, {row.characters_per_second:,.0f} characters/s"
        passed = row.nats <= _GOAL if scale.on_gpu else None
        yield Finding(f"learns {row.name} {row.precision}", row.nats, "nats", passed, _with_notes(note, row))


def _failed(what: str, row: Measured) -> Finding:
    return Finding(what, "failed", passed=False, note=_with_notes(row.failure, row))


def _with_notes(text: str, row: Measured) -> str:
    return "; ".join(part for part in (text, *row.notes) if part)
