"""The time that sessions and tickets expire by. It does not follow a clock that is wrong for a moment.

While the process runs, its time goes on by the seconds since the machine was started (suspended ones included), from
the Unix time at which the process began. A step of the machine's clock is logged, and believed once it has lasted for
an hour: a clock that was wrong when the process began is put right in the end.

What a server deletes is gone, also if its clock was wrong. So a session that has expired is refused at once, but
deleted an hour later at the earliest, and only by a process whose time has gone on without a step for an hour.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final, Protocol

from segue_server.telemetry.rate_limited_log import RateLimitedLog

LASTING_SECONDS: Final = 3600.0
"""A step that lasts as long is believed. A time that has gone on as long is good enough to delete what expired as long
ago."""
_FOLLOWED_SECONDS: Final = 10.0
"""A step below this is followed at once: it matters to nobody."""
_LOG_SECONDS: Final = 60.0
"""Least time between two lines about steps."""
_since_boot: Final = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds since the machine was started; suspended ones count, where the system knows them."""

_log = logging.getLogger(__name__)


class Clock(Protocol):
    """What a store needs to know of time."""

    def now(self) -> float:
        """Return seconds of Unix time."""

    def surely_past(self) -> float:
        """Return a time such that what expired before it may be deleted; -inf: nothing may."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A step of the machine's clock that has not lasted yet. Both in seconds."""

    offset: float
    """Unix time less elapsed time."""
    since: float
    """In elapsed time."""


class SteadyClock:
    """A `Clock`; may be used by any thread."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = _since_boot,
    ) -> None:
        """`wall`: the machine's clock, seconds of Unix time; `elapsed`: seconds that no setting of it changes."""
        self._wall = wall
        self._elapsed = elapsed
        self._offset = wall() - elapsed()
        self._steady_since = elapsed()
        self._step: _Step | None = None
        self._log = RateLimitedLog(_log, _LOG_SECONDS, elapsed)
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return seconds of Unix time."""
        wall, elapsed = self._wall(), self._elapsed()
        if self._step is None and abs(wall - elapsed - self._offset) <= _FOLLOWED_SECONDS:  # the usual case
            self._offset = wall - elapsed
            return wall
        with self._lock:
            self._look(wall - elapsed, elapsed)
            return self._offset + elapsed

    def surely_past(self) -> float:
        """Return a time such that what expired before it may be deleted; -inf: nothing may."""
        now = self.now()
        steady = self._step is None and self._elapsed() - self._steady_since >= LASTING_SECONDS
        return now - LASTING_SECONDS if steady else -inf

    def _look(self, offset: float, elapsed: float) -> None:
        """Look at what may be a step of the machine's clock."""
        if abs(offset - self._offset) <= _FOLLOWED_SECONDS:
            self._offset, self._step = offset, None
        elif self._step is None or abs(offset - self._step.offset) > _FOLLOWED_SECONDS:
            self._step = _Step(offset, elapsed)
            self._note("the machine's clock was set by %+.0f s; sessions and tickets follow if that lasts")
        elif elapsed - self._step.since >= LASTING_SECONDS:
            self._note("sessions and tickets follow the machine's clock, which was set by %+.0f s")
            self._offset, self._steady_since, self._step = offset, elapsed, None

    def _note(self, text: str) -> None:
        assert self._step is not None
        self._log.warn("steps of the clock", text, self._step.offset - self._offset)


CLOCK: Final = SteadyClock()
"""The process's own."""
