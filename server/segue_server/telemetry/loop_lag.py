"""How late the event loop is: every stream waits while one callback runs.

A timer on the loop measures how late it is called. A thread of its own looks at the timer's latest call; when that is
overdue, it notes what the loop's thread is doing, while that still lasts.

    segue_event_loop_lag_seconds           histogram of the timer's lateness
    segue_event_loop_lag_longest_seconds   the worst of the last minute
"""

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram

from segue_server.telemetry.rate_limited_log import RateLimitedLog

INTERVAL_SECONDS: Final = 0.05
"""Of the timer. What holds the loop for shorter is seen in part."""
REPORT_SECONDS: Final = 0.1
"""A lag above this is logged."""

_WINDOW_SECONDS: Final = 60.0
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SHOWN_FRAMES: Final = 4

_log = logging.getLogger(__name__)


class LongestLag:
    """The largest of the values of the last minute: a queue of falling values, as only these can become the largest."""

    def __init__(self, window: float = _WINDOW_SECONDS) -> None:
        self._window = window
        self._falling: deque[tuple[float, float]] = deque()
        """Times and values."""

    def add(self, now: float, value: float) -> None:
        """Take in the value of time `now`."""
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((now, value))
        self._forget(now)

    def at(self, now: float) -> float:
        """Return the largest value; 0 if there is none."""
        return max((value for then, value in tuple(self._falling) if then > now - self._window), default=0.0)

    def _forget(self, now: float) -> None:
        while self._falling[0][0] <= now - self._window:
            self._falling.popleft()


class LoopLag:
    """Watches the running event loop from its thread and from another one, until `stop`."""

    def __init__(self, metrics: CollectorRegistry, interval: float = INTERVAL_SECONDS) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._interval = interval
        self._lags = Histogram(
            "segue_event_loop_lag_seconds", "How late a timer of the event loop is.", buckets=_BUCKETS, registry=metrics
        )
        self._longest = LongestLag()
        longest = Gauge("segue_event_loop_lag_longest_seconds", "The longest lag of the last minute.", registry=metrics)
        longest.set_function(lambda: self._longest.at(time.monotonic()))
        self._log = RateLimitedLog(_log)
        self._due = time.monotonic() + interval
        self._held_by = ""
        self._timer = self._loop.call_later(interval, self._beat)
        self._stopped = threading.Event()
        threading.Thread(target=self._look, name="loop watchdog", daemon=True).start()

    def stop(self) -> None:
        """End the timer and the thread."""
        self._timer.cancel()
        self._stopped.set()

    def _beat(self) -> None:
        now = time.monotonic()
        lag, held_by = max(0.0, now - self._due), self._held_by
        self._due, self._held_by = now + self._interval, ""
        self._timer = self._loop.call_later(self._interval, self._beat)
        self._lags.observe(lag)
        self._longest.add(now, lag)
        if lag > REPORT_SECONDS:
            self._log.warn("late event loops", "the event loop was late by %.2f s: %s", lag, held_by or "no cause seen")
        self._log.flush()

    def _look(self) -> None:
        while not self._stopped.wait(self._interval):
            overdue = time.monotonic() - self._due
            if overdue > REPORT_SECONDS / 2 and not self._held_by:
                self._held_by = _where(sys._current_frames().get(self._loop_thread))  # noqa: SLF001 - its public name


def _where(frame: FrameType | None) -> str:
    """Return the innermost calls as one line, the innermost first."""
    calls: list[str] = []
    while frame is not None and len(calls) < _SHOWN_FRAMES:
        code = frame.f_code
        calls.append(f"{code.co_name} ({Path(code.co_filename).name}:{frame.f_lineno})")
        frame = frame.f_back
    return " < ".join(calls)
