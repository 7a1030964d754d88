"""A log that clients cannot fill: one line a period for each kind of message, with the number of those left out.

    client_faults.warn("unread stream", "a stream was not read for %g s", seconds)

A kind is a short constant of the program. It says what happened and never holds what a client sent, so that kinds form
a small set; the text may name values of this one case.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PERIOD_SECONDS: Final = 10.0
MAX_KINDS: Final = 64
"""Further kinds count as one."""

_OTHER: Final = "other"


@dataclass
class _Kind:
    until: float
    """When the period of the latest line ends."""
    left_out: int = 0


class RateLimitedLog:
    """Writes warnings to `log`; may be used by any thread."""

    def __init__(
        self, log: logging.Logger, period: float = PERIOD_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._period = period
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}

    def warn(self, kind: str, text: str, *args: object) -> None:
        """Log `text % args`, unless a line of this kind was logged in the last period: then count it."""
        left_out = self._count(kind)
        if left_out is None:
            return
        more = f" ({left_out} more like this since the last such line)" if left_out else ""
        self._log.warning(f"{text}%s", *args, more)

    def flush(self) -> None:
        """Log how many messages were left out, for each kind whose period has passed without another one."""
        for kind, left_out in self._take_overdue():
            self._log.warning("%d more since the last such line: %s", left_out, kind)

    def _count(self, kind: str) -> int | None:
        """Return how many were left out before this message, or None if it is left out too."""
        now = self._clock()
        with self._lock:
            if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
                kind = _OTHER
            known = self._kinds.get(kind)
            if known is not None and now < known.until:
                known.left_out += 1
                return None
            self._kinds[kind] = _Kind(now + self._period)
            return 0 if known is None else known.left_out

    def _take_overdue(self) -> list[tuple[str, int]]:
        now = self._clock()
        with self._lock:
            overdue = [(kind, each.left_out) for kind, each in self._kinds.items() if each.until <= now]
            for kind, left_out in overdue:
                if left_out:  # the line that follows begins a period of its own
                    self._kinds[kind] = _Kind(now + self._period)
                else:
                    del self._kinds[kind]
        return [(kind, left_out) for kind, left_out in overdue if left_out]


client_faults: Final = RateLimitedLog(logging.getLogger("segue_server.client_faults"))
"""What clients do wrong, one line a period for each kind."""
