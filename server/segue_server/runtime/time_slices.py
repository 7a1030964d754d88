"""Long work on the event loop, in slices, so that no call keeps the others waiting.

Such work is written as `Steps`: a generator that yields before each part that takes more than a moment (about a
millisecond at most), and returns its result. Little work never yields and so is done at once. The rest is done in
turns: at most one slice of one call in each pass of the event loop, first come, first served.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that yields before each of its parts, and returns a T."""

SLICE_SECONDS: Final = 0.002

_turns: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()
"""Of each event loop, who may work in this pass."""


def at_once(steps: Steps[T]) -> T:
    """Do all the work now."""
    try:
        while True:
            next(steps)
    except StopIteration as done:
        result: T = done.value
        return result


async def in_slices(steps: Steps[T], clock: Callable[[], float] = time.perf_counter) -> T:
    """Do the work up to its first yield now, and the rest in turns."""
    try:
        next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
    return await _in_turns(steps, clock)


async def _in_turns(steps: Steps[T], clock: Callable[[], float]) -> T:
    loop = asyncio.get_running_loop()
    turn = _turns.setdefault(loop, asyncio.Lock())
    while True:
        await turn.acquire()
        end = clock() + SLICE_SECONDS
        try:
            while clock() < end:
                next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            # In the next pass of the loop: until then, this slice is the only one.
            loop.call_soon(turn.release)
