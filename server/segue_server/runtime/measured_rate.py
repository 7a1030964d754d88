"""How many symbols a second an engine reads and writes while its batches are full.

Measured by the wall clock, with everything around the runs of the model: what other threads and processes take is
missing here as it is missing there. A tick whose batches were not full counts for the time that its symbols would have
taken in full ones, so that an engine with one stream seems no slower than one with hundreds. Nothing but admission
depends on it.
"""

import time
from statistics import median
from typing import Final

import numpy as np

from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.sequence import Sequence, State

WINDOW: Final = 1.5
"""Seconds of full batches after which what was seen before counts for 1 / e."""
LONG_WINDOW: Final = 30.0
"""The same for what calls that can wait are told: a burst of them takes most of the engine's time for a second or two.
"""
MOST_AT_ONCE: Final = 0.2 * WINDOW
"""What a tick counts for at most, in seconds: that a process stood still once says nothing about its speed."""

GUESS: Final = 50_000.0
"""Symbols a second, until something is known."""

CALIBRATION: Final = 0.15
"""Seconds that calibration takes, and one tick at most."""
_LONGEST_TICK: Final = 16
"""Steps."""


class MeasuredRate:
    """Symbols a second in full batches, weighted by time: about the last seconds of work count."""

    def __init__(self, rate: float = GUESS, window: float = WINDOW) -> None:
        """Begin with `rate`, as if it had been seen for one window."""
        self._window = window
        self.rate = rate
        """Symbols a second; more than 0. Any thread may read it."""
        self._seconds = window
        self._symbols = rate * window

    def observe(self, symbols: int, seconds: float, fullness: float) -> None:
        """Learn from `seconds` in which `symbols` were read and written; see `Engine.fullness`."""
        seconds *= fullness
        if not symbols or seconds <= 0:
            return
        share = min(1.0, MOST_AT_ONCE / seconds)
        kept = max(0.0, 1 - share * seconds / self._window)
        self._symbols = kept * self._symbols + share * symbols
        self._seconds = kept * self._seconds + share * seconds
        self.rate = self._symbols / self._seconds


def calibrate(model: Model) -> float:
    """Return the symbols a second of a full decode batch of `model`: the median of a few ticks."""
    engine, nothing = Engine(model), np.empty(0, dtype=np.int64)
    for seed in range(engine.most_rows):
        engine.add(Sequence(State.after_first(1, model.state_shape, seed), nothing, 2**40, keep_state=False))
    engine.step(1, 0)  # takes the rows
    rates, steps, began = list[float](), 1, time.monotonic()
    now = began
    while now < began + CALIBRATION and engine.decoding:
        engine.step(steps, 0)
        now, before = time.monotonic(), now
        rates.append(engine.symbols / max(now - before, 1e-9))
        if now < began + CALIBRATION / 8:  # a wide model's first tick may take all the time: short ones come first
            steps = min(2 * steps, _LONGEST_TICK)
    return median(rates) if any(rates) else GUESS
