"""The addresses of a client: which are good, which are busy, how many calls each has. No I/O.

A new call goes to a good address, of these to the one with the fewest calls that run there, of these to the one that
was used least recently. An address that was full or did not answer is left alone for a while: as long as it said, or
for a second, and twice as long each time that it fails again.

Calls in sessions stay together at one address, since each server may keep its own: the last that answered one, and at
first the first of the list.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from types import TracebackType
from typing import Final, Self

from segue_client.errors import SegueError, ServerBusy
from segue_client.protocol.address import checked_address

_SHORTEST_REST: Final = 1.0
_LONGEST_REST: Final = 30.0
_MOST_DOUBLINGS: Final = 5


class Use:
    """One call at an address, which counts there until it ends."""

    def __init__(self, address: str, running: "set[Use]") -> None:
        self.address = address
        self._running = running
        running.add(self)

    def end(self) -> None:
        """Note the end of the call; once is enough. It takes no lock: the garbage collector may do so at any time."""
        self._running.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


@dataclass
class _Place:
    """What a client knows of one address."""

    number: int
    running: set[Use] = field(default_factory=set)
    """The calls there that have not ended."""
    used: int = 0
    """Which one of all calls the latest here was."""
    failures: int = 0
    """In a row."""
    good_at: float = float("-inf")
    """Until then it is left alone."""


class Addresses:
    """One or several addresses of interchangeable servers. Any thread may use it."""

    def __init__(self, target: str | Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        """`target`: one gRPC name, such as HOST:PORT, or several. Raises InvalidRequest for what is none."""
        self.all = tuple(dict.fromkeys(map(checked_address, _listed(target) or [""])))
        self._clock = clock
        self._lock = Lock()
        self._places = {address: _Place(number) for number, address in enumerate(self.all)}
        self._home = self.all[0]
        """Where the calls in sessions go."""
        self._uses = 0

    def begin(self, among: Collection[str], *, in_session: bool = False) -> Use:
        """Choose the best address of `among`, for a call that begins now."""
        with self._lock:
            rank = self._rank_in_session if in_session else self._rank
            address = min(among, key=rank)
            place = self._places[address]
            self._uses += 1
            place.used = self._uses
            return Use(address, place.running)

    def note_answer(self, address: str, *, in_session: bool = False) -> None:
        """Note that a call was answered there."""
        with self._lock:
            place = self._places[address]
            place.failures, place.good_at = 0, float("-inf")
            if in_session:
                self._home = address

    def note_failure(self, address: str, error: SegueError) -> None:
        """Note that the server there is full, or is none. Of many calls that fail at once, only the first counts."""
        if error.reason.startswith("STORE_"):  # other calls are none the worse for it
            return
        with self._lock:
            place, now = self._places[address], self._clock()
            if isinstance(error, ServerBusy):
                place.good_at = max(place.good_at, now + (error.retry_after or 0.0))
            elif now >= place.good_at:
                place.good_at = now + min(_SHORTEST_REST * 2**place.failures, _LONGEST_REST)
                place.failures = min(place.failures + 1, _MOST_DOUBLINGS)

    def _rank(self, address: str) -> tuple[float, int, int]:
        place = self._places[address]
        return self._rest(place), len(place.running), place.used

    def _rank_in_session(self, address: str) -> tuple[float, bool, int]:
        place = self._places[address]
        return self._rest(place), address != self._home, place.number

    def _rest(self, place: _Place) -> float:
        """Return the seconds for which it is still to be left alone."""
        return max(0.0, place.good_at - self._clock())


def _listed(target: object) -> list[object]:
    return list(target) if isinstance(target, Iterable) and not isinstance(target, str | bytes) else [target]
