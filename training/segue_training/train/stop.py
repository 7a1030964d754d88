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
def interruptible(*, is_alone: bool = True) -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt and SIGTERM Terminated, which exits with its status, whatever they did before.

    Import everything large first: amid an import a KeyboardInterrupt may be lost. In a group of processes SIGTERM still
    ends the process at once: its others may wait for it.
    """
    handlers: dict[signal.Signals, Callable[..., Any]] = {signal.SIGINT: signal.default_int_handler}
    if is_alone:
        handlers[signal.SIGTERM] = _terminate
    heeded = {number: signal.getsignal(number) for number in handlers}
    heeded = {number: before for number, before in heeded.items() if before is not signal.SIG_IGN}
    for number in heeded:
        signal.signal(number, handlers[number])
    try:
        yield
    except Terminated:
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        for number, before in heeded.items():
            signal.signal(number, before)


@contextmanager
def stoppable(folder: Path, *, is_alone: bool) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into Interrupted, which names the step that is saved in `folder`.

    If none is saved, they have the effect of `interruptible`.
    """
    with interruptible(is_alone=is_alone):
        try:
            yield
        except KeyboardInterrupt as stop:
            if files := train_state_files(folder):
                raise interrupted(signal_of(stop), folder, step_of(files[-1])) from None
            raise


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
