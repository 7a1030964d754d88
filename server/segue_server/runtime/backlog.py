"""How long what an engine has to do will take: the wait of a call that comes now.

Sequences advance together, so a text is delayed by as much of each other sequence as it is long itself: of a sequence
that is longer than `TURN`, only that much counts, unless the call has itself more to read than that. One that only
reads counts whole until its end: whoever waits for its result waits for those as well who come meanwhile, and take
their part of the engine. Groups of owners share a full engine equally, so a call waits for no more of another group's
work than its own group has.
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
    text_end: int
    """The position at which it has read its text."""
    end: int
    """The position at which it is done."""
    counted: int
    """The symbols of it that count."""
    whole: int
    """What counted at first."""

    @property
    def writes(self) -> bool:
        """Whether it goes on after its text."""
        return self.end > self.text_end


class Backlog:
    """The work of the sequences in an engine, and of calls that will open some. For the event loop's thread alone."""

    def __init__(self, rate: Callable[[], float], long_rate: Callable[[], float] | None = None) -> None:
        """`rate` returns how many symbols a second the engine reads and writes while its batches are full.

        `long_rate`: the same over a longer time, for owners that can wait.
        """
        self._rate = rate
        self._long_rate = long_rate or rate
        self._by_sequence: dict[Sequence, _Work] = {}
        self._unread: dict[Sequence, int] = {}
        """What is left of texts longer than a turn."""
        self._by_group: Counter[str] = Counter()
        self._by_connection: Counter[str] = Counter()
        self._usual = TURN / 4

    @property
    def seconds(self) -> float:
        """How long all of it takes."""
        return self._by_group.total() / self._rate()

    def wait(self, owner: Owner, text: int = 0) -> float:
        """Return the seconds until a call of `owner` that comes now would have had its turn, or read `text` symbols."""
        wait, _ = self._before(owner, text)
        return wait

    def admits(self, owner: Owner, seconds: float, text: int = 0) -> bool:
        """Whether the wait is at most `seconds`, of which `owner`'s connection has no more than its share."""
        wait, of_connection = self._before(owner, text)
        left = seconds - wait
        return left >= 0 and of_connection <= SHARE * left

    def seconds_of(self, symbols: int) -> float:
        """Return how long so many symbols take."""
        return symbols / self._rate()

    def _before(self, owner: Owner, text: int) -> tuple[float, float]:
        """Return the seconds of `wait`, and how many the work of `owner`'s connection takes."""
        by_group, by_connection = self._seen_by(text)
        own = by_group[owner.group]
        turn = own + max(int(self._usual), text)  # what the group has to do with this call
        work = own + sum(min(turn, work) for group, work in by_group.items() if group != owner.group)
        rate = self._long_rate() if owner.patient else self._rate()
        return work / rate, by_connection[owner.connection] / rate

    def _seen_by(self, text: int) -> tuple[Counter[str], Counter[str]]:
        """Return the work by group and by connection, as far as it delays a call that has `text` symbols to read."""
        if text <= TURN or not self._unread:
            return self._by_group, self._by_connection
        by_group, by_connection = self._by_group.copy(), self._by_connection.copy()
        for sequence, unread in self._unread.items():
            beyond, owner = max(0, min(text, unread) - TURN), self._by_sequence[sequence].owner
            by_group[owner.group] += beyond
            by_connection[owner.connection] += beyond
        return by_group, by_connection

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
        text = len(sequence.prefill_ids)
        text_end, counted = sequence.state.position + text, min(text + sequence.max_characters, TURN)
        end = text_end + sequence.max_characters
        work = self._by_sequence[sequence] = _Work(owner, text_end, end, counted, counted)
        if text > TURN:
            self._unread[sequence] = text
        self._usual = _MEMORY * self._usual + (1 - _MEMORY) * work.counted
        self.add(owner, work.counted)

    def advance(self, sequence: Sequence, position: int) -> None:
        """Note that a sequence has reached `position`; does nothing if it is not known."""
        if (work := self._by_sequence.get(sequence)) is None:
            return
        if sequence in self._unread:
            self._note_unread(sequence, work.text_end - position)
        counted = min(TURN, max(0, work.end - position)) if work.writes else work.whole
        if counted != work.counted:
            self.add(work.owner, counted - work.counted)
            work.counted = counted

    def _note_unread(self, sequence: Sequence, unread: int) -> None:
        if unread > TURN:
            self._unread[sequence] = unread
        else:
            del self._unread[sequence]

    def pause(self, sequence: Sequence) -> None:
        """Count nothing of a sequence until it advances again: its reader has stalled."""
        if (work := self._by_sequence.get(sequence)) is not None and work.counted:
            self.add(work.owner, -work.counted)
            work.counted = 0

    def leave(self, sequence: Sequence) -> None:
        """Forget a sequence; does nothing if it is not known."""
        self._unread.pop(sequence, None)
        if (work := self._by_sequence.pop(sequence, None)) is not None and work.counted:
            self.add(work.owner, -work.counted)


def nothing_expected() -> None:
    """Settle nothing."""
