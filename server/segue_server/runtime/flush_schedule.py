"""When the outputs of which sequences are sent: each part of them once an interval, the parts one after another.

All at once, hundreds of messages would hold up the calls that come meanwhile. But a few at a time cost more: the event
loop wakes for each time, and takes the interpreter from the engine.
"""

from typing import Final

from segue_server.engine.sequence import PARTS

TOGETHER: Final = 32
"""Streams that are worth waking the event loop for, at least."""


class FlushSchedule:
    """Divides an interval among the parts."""

    def __init__(self, now: float) -> None:
        """Begin at the time `now`, in seconds."""
        self._flushed = now
        """Up to when what was due was told."""
        self._next = 0

    def due(self, now: float, interval: float, streams: int) -> frozenset[int]:
        """Return the parts that are due `now`, of `streams` streams; each is once in `interval` seconds."""
        together = min(PARTS, -(-PARTS * TOGETHER // max(1, streams)))
        count = int((now - self._flushed) * PARTS / interval) // together * together
        if count >= PARTS:
            self._flushed = now
            return frozenset(range(PARTS))
        self._flushed += count * interval / PARTS
        first, self._next = self._next, (self._next + count) % PARTS
        return frozenset((first + i) % PARTS for i in range(count))
