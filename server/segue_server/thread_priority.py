"""Which thread gets a busy core: the event loop's before the engine's, but not in the middle of the engine's work.

Linux alone has a policy and a niceness for each thread, and since version 6.12 a length of its turns; elsewhere nothing
changes.
"""

import ctypes
import logging
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

NICENESS: Final = 5
"""Of the engine's thread, more than of the others: on a busy core, the event loop comes first, which has little to do
for a call, and most for those that it refuses. With less, they wait longer; with more, the loop waits for Python's
lock, which the engine's thread holds and gets no time to give back.
"""

TURN_NANOSECONDS: Final = 8_000_000
"""Of the engine's thread, if many wait for it: the event loop finds more to do at once, and both find their caches
warm for longer. Beside 900 refused calls a second on one core, the server answers a sixth more; a refusal comes 4 ms
later. So would the first characters of a single stream, whose turns stay short.
"""
_KERNEL_DEFAULT: Final = 0
"""Nanoseconds that stand for the kernel's own length."""
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
"""The number of the system call, which Python does not have."""

_log = logging.getLogger(__name__)


class _SchedulingAttributes(ctypes.Structure):
    """`struct sched_attr`: man 2 sched_setattr."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def wait_for_turns() -> None:
    """Let this thread, and all that it starts, wait until another one's turn is over, some milliseconds at most.

    Otherwise every message that comes interrupts the engine, whose weights then leave the core's cache: beside 1,000
    refused calls a second this happened 400 times a second, and happens 150 times now.
    """
    if sys.platform == "linux":
        with _forbidden_is_logged("wait for their turns"):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def let_others_first() -> None:
    """Raise the niceness of this thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with _forbidden_is_logged("let others first"):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)


class TurnLength:
    """Of one thread's turns on its core. For that thread alone."""

    def __init__(self) -> None:
        self._are_long = False
        self._can_change = sys.platform == "linux" and _SCHED_SETATTR is not None

    def lengthen(self, wanted: bool) -> None:
        """Let the turns be long from now on, or as long as the kernel's; does nothing if they are."""
        if wanted == self._are_long or not self._can_change:
            return
        with _forbidden_is_logged("have longer turns"):
            _set_turn(TURN_NANOSECONDS if wanted else _KERNEL_DEFAULT)
            self._are_long = wanted
            return
        self._can_change = False


def _set_turn(nanoseconds: int) -> None:
    """Set the length of this thread's turns: how long it runs before another is chosen."""
    attributes = _SchedulingAttributes(
        size=ctypes.sizeof(_SchedulingAttributes),
        policy=os.sched_getscheduler(0),
        nice=os.getpriority(os.PRIO_PROCESS, threading.get_native_id()),
        runtime=nanoseconds,
    )
    system = ctypes.CDLL(None, use_errno=True)
    if system.syscall(_SCHED_SETATTR, 0, ctypes.byref(attributes), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def _forbidden_is_logged(what: str) -> Iterator[None]:
    """Log that the block failed: a sandbox may forbid it (gVisor, seccomp), and a server works without."""
    try:
        yield
    except OSError as error:
        _log.warning("threads cannot %s here (%s): calls are refused later on a busy core", what, error.strerror)
