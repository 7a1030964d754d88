"""Which thread gets a busy core: the event loop's before the engine's, but not in the middle of the engine's work.

Linux alone has a policy and a niceness for each thread; elsewhere nothing changes.
"""

import logging
import os
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

_log = logging.getLogger(__name__)


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


@contextmanager
def _forbidden_is_logged(what: str) -> Iterator[None]:
    """Log that the block failed: a sandbox may forbid it (gVisor, seccomp), and a server works without."""
    try:
        yield
    except OSError as error:
        _log.warning("threads cannot %s here (%s): calls are refused later on a busy core", what, error.strerror)
