"""Standard streams that cannot be used as they are: closed, no longer read, or of an encoding that lacks characters.

A shell closes them with `<&-`. Python has None in place of closed ones, and the system gives their numbers to the next
files and sockets, which stray output would then damage.
"""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, NoReturn


class InputClosed(Exception):  # noqa: N818 - named after what happened
    """Standard input was to be read, and is closed."""

    exit_code: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__("standard input is closed: name a file instead of -, or redirect one with < FILE")


class _ClosedInput(io.RawIOBase):
    """Holds the number of standard input; whoever reads it gets InputClosed."""

    def __init__(self) -> None:
        self._nowhere = os.open(os.devnull, os.O_RDONLY)

    def readable(self) -> bool:
        """Let a reader try."""
        return True

    def readinto(self, buffer: object, /) -> NoReturn:
        """Raise InputClosed."""
        del buffer
        raise InputClosed


def replace_closed() -> None:
    """Let output go nowhere if its stream is closed, and reading from a closed input fail with InputClosed."""
    # In the order of their numbers: a file gets the lowest that is free.
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()))
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()


def write_everything() -> None:
    """Write what the encoding of standard output lacks as escapes, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _nowhere() -> io.TextIOWrapper:
    return Path(os.devnull).open("w", encoding="utf-8")


def discard_output() -> None:
    """Redirect standard output to nowhere, so that nothing that is still written to it can fail."""
    with suppress(io.UnsupportedOperation), Path(os.devnull).open("wb") as nowhere:  # a test's output is no file
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
