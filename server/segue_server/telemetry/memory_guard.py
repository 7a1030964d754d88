"""Looks at the memory that the process really uses: what nobody could count must not end it.

A message of a stream is buffered by gRPC while it arrives, whether or not the stream is idle; and a program frees less
than it counts. While the process uses too much, no call is let in, and idle streams of text end.
"""

import asyncio
import ctypes
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from segue_server.runtime.admission import Admission
from segue_server.telemetry.rate_limited_log import client_faults

_INTERVAL_SECONDS: Final = 0.25
_CLEANING_SECONDS: Final = 5.0
"""Between two attempts, at least, to give memory back to the system: that holds the event loop for a moment."""
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return how much memory this process uses."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES


class MemoryGuard:
    """Tells `admission` when memory is short. For the event loop's thread alone."""

    def __init__(
        self,
        admission: Admission,
        most_bytes: int,
        on_short: Callable[[], None] = lambda: None,
        used: Callable[[], int] = resident_bytes,
    ) -> None:
        """Look from now on whether more than `most_bytes` are `used`; `on_short` frees what it can."""
        self._on_short = on_short
        self._cleaned = float("-inf")
        self._admission = admission
        self._most_bytes = most_bytes
        self._used = used
        self._look()

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        used = self._used()
        if used > self._most_bytes and (now := time.monotonic()) >= self._cleaned + _CLEANING_SECONDS:
            self._cleaned = now
            self._on_short()
            gc.collect()  # there may be cycles that wait for a time without streams
            ctypes.CDLL(None).malloc_trim(0)
            used = self._used()
        self._admission.is_memory_short = used > self._most_bytes
        if self._admission.is_memory_short:
            client_faults.warn(
                "memory short", "%d MB are in use, of %d: no call is let in", used // 10**6, self._most_bytes // 10**6
            )
        self._timer = asyncio.get_running_loop().call_later(_INTERVAL_SECONDS, self._look)
