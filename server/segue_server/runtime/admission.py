"""Whether a call is let in: decided before anything of it is read, in a few microseconds.

A call needs memory, places for its sequences, and time: it is refused at once where the work before it would take
longer than it can wait. How long that is says its deadline; without one, the server's `longest_wait`.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from segue_server.errors import Overloaded
from segue_server.runtime.backlog import Backlog, nothing_expected
from segue_server.runtime.owner import Owner
from segue_server.runtime.shared import Shared

GiveBack = Callable[[], None]
"""Gives one place back."""

ASSURED_PLACES: Final = 8
ASSURED_BYTES: Final = 2**20

SLOWEST_STREAM: Final = 5.0
"""Characters a second: a server has no places for more streams than it can serve at this speed."""
FEWEST_PLACES: Final = 1024
"""If there is the memory: where time is short, waiting calls are refused for that."""
SEQUENCE_BYTES: Final = 2**16
"""What a sequence takes, without its states and its prompt: its stream's buffer, messages under way, Python objects."""
_STATES: Final = 4
"""Of a sequence: its own, one in an output, one in a ticket, one in its row."""

_CHANCE: Final = 0.5
"""The part of the time left that a call may spend waiting."""
_TEXTS_BEFORE: Final = 16
"""Texts as long as its own that a call without a deadline waits for. Sequences read together: with so many others, one
takes less than twice as long as alone."""
_SHORTEST_RETRY: Final = 0.1
_LONGEST_RETRY: Final = 30.0


@dataclass(frozen=True)
class Capacity:
    """What a server has to share."""

    memory: int
    """Bytes for what clients cause: requests, prompts, replies, buffers and states."""
    places: int
    """For sequences. They have half of the memory."""

    @classmethod
    def of(cls, memory: int, rate: float, state_bytes: int, places: int | None = None) -> "Capacity":
        """Return the capacity for a model of `rate` symbols a second; `places`: as configured."""
        fitting = memory // 2 // (SEQUENCE_BYTES + _STATES * state_bytes)
        return cls(memory, places or max(1, min(fitting, max(FEWEST_PLACES, int(rate / SLOWEST_STREAM)))))


class Admission:
    """Places and memory of a server. For the event loop's thread alone."""

    def __init__(self, capacity: Capacity, longest_wait: float) -> None:
        """`longest_wait`: seconds that the work before a call without a deadline may take."""
        self.places = Shared("places for sequences", capacity.places, ASSURED_PLACES)
        self.memory = Shared("bytes", capacity.memory // 2, ASSURED_BYTES)
        self.is_memory_short = False
        """Whether the process uses more than it may, whatever was counted."""
        self.late = 0
        """How many calls would have waited too long."""
        self._longest_wait = longest_wait

    def check_memory(self) -> None:
        """Raise Overloaded if memory is short."""
        if self.is_memory_short:
            self.memory.refused += 1
            raise Overloaded("the server's memory is short; retry shortly")

    def is_patient(self, time_left: float | None) -> bool:
        """Whether a call that has `time_left` seconds (None: no deadline) may wait longer than others."""
        return time_left is not None and _CHANCE * time_left > self._longest_wait

    def check(self, backlogs: Sequence[Backlog], owner: Owner, time_left: float | None) -> None:
        """Raise Overloaded if there is no memory or place for a call, or no engine could serve it in time."""
        self.check_memory()
        self.places.require(owner, 1)
        if not any(self._admits(backlog, owner, time_left) for backlog in backlogs[1:]):
            self.check_wait(backlogs[0], owner, time_left)

    def let_in(self, backlogs: Sequence[Backlog], owner: Owner, time_left: float | None) -> Callable[[], None]:
        """Check a call; then count what it is expected to need, until the returned function is called.

        Nothing is expected where there are several models: which one the call is for is not known yet.
        """
        self.check(backlogs, owner, time_left)
        return backlogs[0].expect(owner) if len(backlogs) == 1 else nothing_expected

    def check_wait(self, backlog: Backlog, owner: Owner, time_left: float | None, text: int = 0) -> None:
        """Raise Overloaded if the work before a call that has `text` symbols to read takes too long."""
        longest = self._longest(time_left)
        if time_left is None:
            longest = max(longest, _TEXTS_BEFORE * backlog.seconds_of(text))
        if backlog.admits(owner, longest, text):
            return
        self.late += 1
        wait = backlog.wait(owner, text)
        # Spread, so that those who are refused together do not return together.
        delay = max(_SHORTEST_RETRY, wait - longest / 2) * random.uniform(0.75, 1.25)  # noqa: S311
        raise Overloaded(_too_late(wait, longest), min(delay, _LONGEST_RETRY))

    def _admits(self, backlog: Backlog, owner: Owner, time_left: float | None) -> bool:
        return backlog.admits(owner, self._longest(time_left))

    def _longest(self, time_left: float | None) -> float:
        return self._longest_wait if time_left is None else _CHANCE * time_left

    @contextmanager
    def some(self, wanted: int, owner: Owner) -> Iterator[int]:
        """Take as many places as `owner` can have, 1 to `wanted`, and yield how many; raises Overloaded if none."""
        granted = max(1, self.places.fair(owner, wanted))
        with self.exactly(granted, owner):
            yield granted

    @contextmanager
    def exactly(self, wanted: int, owner: Owner) -> Iterator[GiveBack]:
        """Take `wanted` places and yield a function that gives one of them back early; at the end, all are free.

        Raises Overloaded if fewer are free now, and InvalidRequest if the server has fewer.
        """
        self.places.take(owner, wanted)
        held = wanted

        def give_back() -> None:
            nonlocal held
            self.places.give_back(owner, 1)
            held -= 1

        try:
            yield give_back
        finally:
            self.places.give_back(owner, held)


def _too_late(wait: float, longest: float) -> str:
    if wait > longest:
        return (
            f"the work before this call takes {wait:.1f} s, and it can wait for {longest:.1f} s; retry later, or give "
            "it a longer deadline"
        )
    return (
        f"of the {longest:.1f} s of work that may come before this call, your connection has its share in the engine; "
        "wait for its other calls to end, or retry later"
    )
