"""Long work on the event loop, in slices, so that no call keeps the others waiting.

Such work is written as `Steps`: a generator that yields before each part that takes more than a moment (about a
millisecond at most), and returns its result. Little work never yields and so is done at once. The rest is done in
turns: at most one slice of one call in each pass of the event loop, first come, first served.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from segue_server.errors import Overloaded
from segue_server.runtime.owner import Owner
from segue_server.runtime.shared import Shared

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that yields before each of its parts, and returns a T."""

SLICE_SECONDS: Final = 0.002

MOST_CALLS: Final = 64
"""Calls that take turns, each with up to some tenths of a second of work."""
ASSURED_CALLS: Final = 4
"""Of one client, whose requests are in work."""


@dataclass
class _Turns:
    """Of one event loop."""

    free: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who works in this pass."""
    calls: int = 0
    """How many work or wait."""
    begun: Shared = field(default_factory=lambda: Shared("turns for long requests", MOST_CALLS, ASSURED_CALLS))
    """Of those that have begun with this work."""


_turns: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns]] = WeakKeyDictionary()


def at_once(steps: Steps[T]) -> T:
    """Do all the work now."""
    try:
        while True:
            next(steps)
    except StopIteration as done:
        result: T = done.value
        return result


async def in_slices(
    steps: Steps[T], clock: Callable[[], float] = time.perf_counter, *, begins: Owner | None = None
) -> T:
    """Do the work up to its first yield now, and the rest in turns.

    `begins`: whose call it is, where nothing was done for it yet. Then it is refused with Overloaded if too many calls
    take turns, or too many of its owner's.
    """
    try:
        next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
    return await _in_turns(steps, clock, begins=begins)


async def _in_turns(steps: Steps[T], clock: Callable[[], float], *, begins: Owner | None) -> T:
    loop = asyncio.get_running_loop()
    turns = _turns.setdefault(loop, _Turns())
    if begins is not None and turns.calls >= MOST_CALLS:
        raise Overloaded(f"{turns.calls} calls have long requests or replies in work; retry shortly")
    with nullcontext() if begins is None else turns.begun.held(begins, 1):
        turns.calls += 1
        try:
            return await _slice_by_slice(steps, clock, turns.free, loop)
        finally:
            turns.calls -= 1


async def _slice_by_slice(
    steps: Steps[T], clock: Callable[[], float], free: asyncio.Lock, loop: asyncio.AbstractEventLoop
) -> T:
    while True:
        await free.acquire()
        end = clock() + SLICE_SECONDS
        try:
            while clock() < end:
                next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            # In the next pass of the loop: until then, this slice is the only one.
            loop.call_soon(free.release)
