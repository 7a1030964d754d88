"""Stops by a signal: Ctrl-C and SIGTERM.

Between two steps a StopRequest lets the run save its state first. Anywhere else, a signal ends the work at once, and
`stoppable` says what is kept.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any, Final, NoReturn, Self

from segue_training.errors import Interrupted
from segue_training.train.train_state import step_of, train_state_files

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within its context, records the first SIGINT or SIGTERM; a second one has its usual effect."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _record(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


class Terminated(KeyboardInterrupt):
    """SIGTERM, outside of a StopRequest."""


@contextmanager
def stoppable(folder: Path, *, is_alone: bool) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into Interrupted, which names the step that is saved in `folder`.

    If none is saved, Ctrl-C stays a KeyboardInterrupt, and SIGTERM exits with its status. In a group of processes
    SIGTERM still ends the process at once: its others may wait for it.
    """
    before = signal.signal(signal.SIGTERM, _terminate if is_alone else signal.getsignal(signal.SIGTERM))
    try:
        yield
    except KeyboardInterrupt as stop:
        number = signal_of(stop)
        if files := train_state_files(folder):
            raise interrupted(number, folder, step_of(files[-1])) from None
        if number == signal.SIGTERM:
            raise SystemExit(128 + number) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def signal_of(stop: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that raised `stop`."""
    return signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT


def interrupted(number: signal.Signals | None, folder: Path, step: int) -> Interrupted:
    """Return the error of a run that was stopped and saved after `step`; None: by another process of its group."""
    name = "another process" if number is None else number.name
    return Interrupted(
        f"stopped by {name} after step {step}; continue with: segue train --resume {quote(str(folder))}",
        number or signal.SIGTERM,
    )


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated
