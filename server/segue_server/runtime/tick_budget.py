"""How long ticks are, and how often text goes out: short while few are served, longer as messages add up."""

from dataclasses import dataclass
from typing import Final

from segue_server.engine.prefill_queue import STEP_ROWS


@dataclass(frozen=True)
class TickBudgetConfig:
    """Durations in seconds. Results depend on none of them."""

    tick: float = 0.02
    """Of writing, in one tick, where few write."""
    tick_per_row: float = 0.00015
    """A row costs some microseconds of Python a tick; so much time for each keeps that near 3 %."""
    reading: float = 0.005
    """Of reading, in one tick, while others write."""
    reading_alone: float = 0.05
    """The same while nobody writes."""
    flush: float = 0.04
    """AfterStep two messages of a stream, at least: twenty-five a second look fluent."""
    flush_per_stream: float = 0.004
    """A message costs more than 100 microseconds of CPU time; so much time for each stream keeps that near 4 %."""
    longest_flush: float = 1.0


class TickBudget:
    """Learns what a row of a step costs, and cuts ticks to fit."""

    LONGEST: Final = 64
    SHORTEST: Final = 8
    """Steps of a tick: fewer would not be worth moving the states for."""
    _MEMORY: Final = 0.8
    """The share of an estimate that outlives the next tick."""

    def __init__(self, config: TickBudgetConfig | None = None) -> None:
        self._config = config or TickBudgetConfig()
        self._seconds_per_row = self._config.tick / (4 * STEP_ROWS)  # a guess, until a tick has been seen

    def steps(self, rows: int) -> int:
        """Return the steps for a cohort of `rows` rows."""
        seconds = max(self._config.tick, self._config.tick_per_row * rows)
        fitting = seconds / (self._seconds_per_row * (rows + STEP_ROWS))
        return max(self.SHORTEST, min(int(fitting), self.LONGEST))

    def reading_work(self, *, alone: bool) -> int:
        """Return how many rows of a step may be spent on reading."""
        seconds = self._config.reading_alone if alone else self._config.reading
        return int(seconds / self._seconds_per_row)

    def observe(self, seconds: float, work: int) -> None:
        """Take the CPU time of a tick and its work in rows of a step."""
        if work:
            estimate = max(seconds / work, 1e-9)
            self._seconds_per_row = self._MEMORY * self._seconds_per_row + (1 - self._MEMORY) * estimate

    def flush_interval(self, streams: int) -> float:
        """Return the seconds between two messages of each of so many streams."""
        config = self._config
        return min(config.longest_flush, max(config.flush, config.flush_per_stream * streams))
