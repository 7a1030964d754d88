"""How long what an engine has to do will take: the wait of a call that comes now.

Sequences advance together, so a text is delayed by as much of each other sequence as it is long itself: of a sequence
that is longer than `TURN`, only that much counts. One that only reads counts whole until its end: whoever waits for its
result waits for those as well who come meanwhile, and take their part of the engine. Groups of owners share a full
engine equally, so a call waits for no more of another group's work than its own group has.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from segue_server.engine.sequence import Sequence
from segue_server.runtime.owner import Owner

TURN: Final = 512
"""Symbols of a sequence that count."""
SHARE: Final = 3
"""The time that the work of one connection may take, as a multiple of what it leaves to others."""
_MEMORY: Final = 0.98
"""The weight of the mean work of sequences beside that of the next one."""


@dataclass(slots=True)
class _Work:
    """What a sequence has still to do."""

    owner: Owner
    end: int
    """The position at which it is done."""
    counted: int
    """The symbols of it that count."""
    whole: int
    """What counted at first."""
    writes: bool


class Backlog:
    """The work of the sequences in an engine, and of calls that will open some. For the event loop's thread alone."""

    def __init__(self, rate: Callable[[], float]) -> None:
        """`rate` returns how many symbols a second the engine reads and writes while its batches are full."""
        self._rate = rate
        self._by_sequence: dict[Sequence, _Work] = {}
        self._by_group: Counter[str] = Counter()
        self._by_connection: Counter[str] = Counter()
        self._usual = TURN / 4

    @property
    def seconds(self) -> float:
        """How long all of it takes."""
        return self._by_group.total() / self._rate()

    def wait(self, owner: Owner) -> float:
        """Return the seconds until a call of `owner` that comes now would have had its turn."""
        own = self._by_group[owner.group]
        turn = own + int(self._usual)  # what the group has to do with this call
        return (
            own + sum(min(turn, work) for group, work in self._by_group.items() if group != owner.group)
        ) / self._rate()

    def admits(self, owner: Owner, seconds: float) -> bool:
        """Whether the wait is at most `seconds`, of which `owner`'s connection has no more than its share."""
        left = seconds - self.wait(owner)
        return left >= 0 and self._by_connection[owner.connection] <= SHARE * left * self._rate()

    def add(self, owner: Owner, symbols: int) -> None:
        """Count work of `owner`; negative: it is done."""
        if not symbols:
            return
        for counter, key in ((self._by_group, owner.group), (self._by_connection, owner.connection)):
            counter[key] += symbols
            if counter[key] <= 0:
                del counter[key]

    def expect(self, owner: Owner) -> Callable[[], None]:
        """Count the work of a usual sequence for a call that was let in, until the returned function is called."""
        expected = int(self._usual)
        self.add(owner, expected)

        def settle() -> None:
            nonlocal expected
            self.add(owner, -expected)
            expected = 0

        return settle

    def enter(self, sequence: Sequence, owner: Owner) -> None:
        """Count a sequence that has joined the engine."""
        left = len(sequence.prefill_ids) + sequence.max_characters
        end, counted = sequence.state.position + left, min(left, TURN)
        work = self._by_sequence[sequence] = _Work(owner, end, counted, counted, sequence.max_characters > 0)
        self._usual = _MEMORY * self._usual + (1 - _MEMORY) * work.counted
        self.add(owner, work.counted)

    def advance(self, sequence: Sequence, position: int) -> None:
        """Note that a sequence has reached `position`; does nothing if it is not known."""
        if (work := self._by_sequence.get(sequence)) is None:
            return
        counted = min(TURN, max(0, work.end - position)) if work.writes else work.whole
        if counted != work.counted:
            self.add(work.owner, counted - work.counted)
            work.counted = counted

    def pause(self, sequence: Sequence) -> None:
        """Count nothing of a sequence until it advances again: its reader has stalled."""
        if (work := self._by_sequence.get(sequence)) is not None and work.counted:
            self.add(work.owner, -work.counted)
            work.counted = 0

    def leave(self, sequence: Sequence) -> None:
        """Forget a sequence; does nothing if it is not known."""
        if (work := self._by_sequence.pop(sequence, None)) is not None and work.counted:
            self.add(work.owner, -work.counted)


def nothing_expected() -> None:
    """Settle nothing."""
