"""The signals that stop a server.

    while it starts     SIGTERM, SIGINT and SIGHUP end the process at once, with status 0: nothing can be lost yet
    while it serves     the first of them asks for a stop, which drains; the next one ends the process at once, with
                        status 128 and the signal's number

SIGHUP is what a closed terminal sends. It is left ignored where nohup(1) had it ignored.

The handlers are real ones: as process 1, which it is in a container, a process never gets the signals that it leaves
to their default actions. Python runs them in the main thread, between two of its own steps. They answer at once even
where the event loop does not, as long as the main thread makes no long call into a library: so models are loaded in
another thread.
"""

import asyncio
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

STOPPED: Final = 0
SAME_SECONDS: Final = 0.2
"""Signals this close to the first are the same request: timeout(1) and others send one to the process and then to its
group."""

_STANDARD_ERROR: Final = 2
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """Answers the signals of the process. For the main thread, once in a process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.asked_by: signal.Signals | None = None
        """The first signal that asked for a stop while serving."""
        self._asked_at = 0.0
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = asyncio.Event()

    def handle(self) -> None:
        """Answer the signals from now on, as those of a server that starts."""
        for number in _STOPPING:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)

    def drain_when_asked(self) -> None:
        """From now on let the first signal ask for a stop, as there are calls to finish."""
        self._loop = asyncio.get_running_loop()

    @staticmethod
    def notice() -> None:
        """Answer a signal that another thread has received: Python tells the main thread of it only some time later."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [])  # changes nothing, but runs the handlers of received signals

    async def asked(self) -> None:
        """Wait until a stop is asked for."""
        await self._asked.wait()

    def _stop(self, number: int, _frame: object) -> None:
        received = signal.Signals(number)
        if self._loop is None:
            _end(f"{received.name}: stopped before it was ready", STOPPED)
        if self.asked_by is None:
            self.asked_by, self._asked_at = received, self._clock()
            self._loop.call_soon_threadsafe(self._asked.set)
        elif self._clock() >= self._asked_at + SAME_SECONDS:
            _end(f"{received.name} after {self.asked_by.name}: ended at once, without finishing calls", 128 + number)


def _end(text: str, status: int) -> NoReturn:
    """End the process, whatever its threads are doing."""
    _say(text)
    os._exit(status)


def _say(text: str) -> None:
    """Write a line to standard error, unless that would wait for its reader.

    Not through `logging`: the handler may have interrupted it in the midst of a line.
    """
    with suppress(OSError):  # there may be no standard error
        _, writable, _ = select.select([], [_STANDARD_ERROR], [], 0)
        if writable:
            os.write(_STANDARD_ERROR, f"{text}\n".encode())
