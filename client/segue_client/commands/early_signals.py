"""Ctrl-C and SIGTERM before a command has begun: they end the process at once.

A KeyboardInterrupt amid the import of torch or NumPy is ignored there, or becomes another error. A handler that raises
nothing cannot be: a command that imports such libraries has this one until it has them, and then sets its own.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_STANDARD_ERROR: Final = 2

_usual: dict[signal.Signals, Callable[..., Any] | int | None] = {}
"""What the signals did before. For the main thread."""


def end_at_once() -> None:
    """Let the signals end the process with a line and the status of shells, unless they are ignored."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            _usual[number] = signal.signal(number, _end)


def as_usual() -> None:
    """Give the signals their effect from before `end_at_once`."""
    while _usual:
        signal.signal(*_usual.popitem())


def _end(number: int, _frame: object) -> None:
    with suppress(OSError):  # there may be no standard error
        os.write(_STANDARD_ERROR, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)
