"""How long ticks are, and how often text is sent: short for a few streams, longer as messages add up.

Durations are in seconds. Results depend on none of them.
"""

from typing import Final

from segue_server.engine.model import STEP_ROWS

DECODE: Final = 0.02
"""Of decoding in one tick, if few sequences decode."""
DECODE_PER_ROW: Final = 0.00015
"""A row costs some microseconds of Python a tick; this much time for each keeps that near 3 %."""
PREFILL: Final = 0.005
"""Of prefill in one tick, while others decode."""
PREFILL_ALONE: Final = 0.05
"""Of prefill in one tick, while nothing decodes."""
FLUSH: Final = 0.04
"""Between two messages of a stream, at least: twenty-five a second look fluent."""
FLUSH_PER_STREAM: Final = 0.004
"""A message costs more than 100 microseconds of CPU time; this much time for each stream keeps that near 4 %."""
LONGEST_FLUSH: Final = 1.0

_MEMORY: Final = 0.8
"""The weight of an estimate beside that of the next tick."""


class TickBudget:
    """Learns what a row of a step costs, and cuts ticks to fit."""

    LONGEST: Final = 64
    SHORTEST: Final = 8
    """Steps of a tick: fewer would not be worth moving the states for."""

    def __init__(self) -> None:
        self._seconds_per_row = DECODE / (4 * STEP_ROWS)  # a guess, until the first tick is observed

    def steps(self, rows: int) -> int:
        """Return the steps for a decode batch of `rows` rows."""
        seconds = max(DECODE, DECODE_PER_ROW * rows)
        fitting = seconds / (self._seconds_per_row * (rows + STEP_ROWS))
        return max(self.SHORTEST, min(int(fitting), self.LONGEST))

    def prefill_work(self, *, alone: bool) -> int:
        """Return how many rows of a step prefill may cost; `alone`: nothing decodes."""
        return int((PREFILL_ALONE if alone else PREFILL) / self._seconds_per_row)

    def observe(self, seconds: float, work: int) -> None:
        """Learn from the CPU time of a tick and its work in rows of a step."""
        if work:
            estimate = max(seconds / work, 1e-9)
            self._seconds_per_row = _MEMORY * self._seconds_per_row + (1 - _MEMORY) * estimate

    def flush_interval(self, streams: int) -> float:
        """Return the seconds between two messages of each of `streams` streams."""
        return min(LONGEST_FLUSH, max(FLUSH, FLUSH_PER_STREAM * streams))
