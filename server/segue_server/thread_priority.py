"""Which thread gets a busy core: the event loop's before the engine's, but not in the middle of the engine's work.

Linux alone has a policy and a niceness for each thread; elsewhere nothing changes.
"""

import os
import sys
import threading
from typing import Final

NICENESS: Final = 5
"""Of the engine's thread, more than of the others: on a busy core, the event loop comes first, which has little to do
for a call, and most for those that it refuses. With less, they wait longer; with more, the loop waits for Python's
lock, which the engine's thread holds and gets no time to give back.
"""


def wait_for_turns() -> None:
    """Let this thread, and all that it starts, wait until another one's turn is over, some milliseconds at most.

    Otherwise every message that comes interrupts the engine, whose weights then leave the core's cache: beside 1,000
    refused calls a second that were 400 times a second, and are 150.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def let_others_first() -> None:
    """Raise the niceness of this thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
