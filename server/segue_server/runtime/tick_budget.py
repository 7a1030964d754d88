"""How long ticks are, and how often text is sent: short for a few streams, longer as messages add up.

Durations are in seconds. Results depend on none of them.
"""

from typing import Final

from segue_server.engine.runners.runner import Capacity

DECODE: Final = 0.02
"""Of decoding in one tick, if few sequences write."""
DECODE_PER_SEQUENCE: Final = 0.0003
"""More for each sequence, once they are many: a tick has fixed costs, and those who begin wait for others anyway."""
LONGEST_DECODE: Final = 0.1
PREFILL: Final = 0.25
"""Of prefill in one tick, while others write, as a share of the time for decoding."""
PREFILL_ALONE: Final = 0.05
"""Of prefill in one tick, while nothing decodes."""
FLUSH: Final = 0.04
"""Between two messages of a stream, at least: twenty-five a second look fluent."""
FLUSH_PER_STREAM: Final = 0.006
"""A message costs 200 to 300 microseconds of CPU time; this much time for each stream keeps that near 4 %."""
LONGEST_FLUSH: Final = 2.0

_MEMORY: Final = 0.8
"""The weight of an estimate beside that of the next tick."""


class TickBudget:
    """Learns what a row of a step costs, and cuts ticks to fit."""

    LONGEST: Final = 64
    """Steps of a tick."""
    LONGEST_ON_DEVICE: Final = 128
    """The same where many rows cost little more than one: handing out what they wrote takes longer."""
    SHORTEST: Final = 8
    """Steps of a tick: fewer would not be worth moving the states for."""

    def __init__(self, capacity: Capacity) -> None:
        self._step_rows = capacity.step_rows
        self._longest = self.LONGEST_ON_DEVICE if capacity.on_device else self.LONGEST
        self._seconds_per_row = DECODE / (4 * self._step_rows)  # a guess, until the first tick is observed

    def steps(self, rows: int, writing: int) -> int:
        """Return the steps for a decode batch of `rows` rows, where `writing` sequences write."""
        fitting = _decode_seconds(writing) / (self._seconds_per_row * (rows + self._step_rows))
        return max(self.SHORTEST, min(int(fitting), self._longest))

    def prefill_work(self, writing: int) -> int:
        """Return how many rows of a step prefill may cost, where `writing` sequences write."""
        seconds = PREFILL * _decode_seconds(writing) if writing else PREFILL_ALONE
        return int(seconds / self._seconds_per_row)

    def observe(self, seconds: float, work: int) -> None:
        """Learn from what a tick took, and its work in rows of a step."""
        if work:
            estimate = max(seconds / work, 1e-9)
            self._seconds_per_row = _MEMORY * self._seconds_per_row + (1 - _MEMORY) * estimate

    def flush_interval(self, streams: int) -> float:
        """Return the seconds between two messages of each of `streams` streams."""
        return min(LONGEST_FLUSH, max(FLUSH, FLUSH_PER_STREAM * streams))


def _decode_seconds(writing: int) -> float:
    return min(LONGEST_DECODE, max(DECODE, DECODE_PER_SEQUENCE * writing))
