"""Full garbage collections while nobody waits, or after a while all the same.

A full collection looks at every object: with 5,000 streams it holds the event loop for 0.1 s and more, and Python
starts one every few seconds then. A stream leaves no cycles when it ends, and those of gRPC (five objects a call) are
garbage within the call, so that the collections of young objects, which stay automatic, find them; but not where a call
outlives such a collection. A server that is never idle must not keep those for ever.
"""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Final

_NEVER: Final = 2**31 - 1
_YOUNG: Final = 2_000
"""New objects between two collections of young ones: with 700, as usual, they take a twentieth of the time."""
_YOUNG_BEFORE_MIDDLE: Final = 2
"""Such collections before one of all that they left. Where those are ten, as usual, and of many objects each, that one
holds the event loop for tens of milliseconds beside 1,000 streams; in all, it costs no less."""
_BETWEEN_SECONDS: Final = 10.0
_LONGEST_SECONDS: Final = 120.0
"""Between two full collections of a server that is always busy: long calls leave it about 1 KB each."""


class IdleCollection:
    """Replaces automatic full collections by ones while `busy` says no, from now until `stop`."""

    def __init__(
        self, busy: Callable[[], bool], between: float = _BETWEEN_SECONDS, longest: float = _LONGEST_SECONDS
    ) -> None:
        """Look every `between` seconds; after `longest` without a collection, do one in any case."""
        self._busy = busy
        self._between = between
        self._longest = longest
        self._collected = time.monotonic()
        self._automatic = gc.get_threshold()
        gc.set_threshold(_YOUNG, _YOUNG_BEFORE_MIDDLE, _NEVER)
        gc.collect()
        gc.freeze()  # what is loaded stays: no collection looks at it again
        self._next = asyncio.get_running_loop().call_later(between, self._collect)

    def stop(self) -> None:
        """Restore Python's own way."""
        self._next.cancel()
        gc.unfreeze()
        gc.set_threshold(*self._automatic)

    def _collect(self) -> None:
        if not self._busy() or time.monotonic() - self._collected >= self._longest:
            gc.collect()
            self._collected = time.monotonic()
        self._next = asyncio.get_running_loop().call_later(self._between, self._collect)
