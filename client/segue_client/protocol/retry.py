"""Whether, where and when a call is tried again after a failure. No I/O: the caller makes the calls, and waits.

    retry = RetryState(addresses, Deadline.after(timeout), patience=30.0)
    while True:
        use = retry.begin()
        try:
            with use:
                return call(use.address, timeout=retry.deadline.left)
        except SegueError as error:
            sleep(retry.delay_after(error))

After a failure each other address is tried at once. What follows depends on whether the call was answered before:

- A call that no server has answered yet fails, so that a user without a server, or in front of full ones, learns of it
  at once.
- A call that was answered is worth waiting for, until nothing has arrived for as long as the caller is patient. It goes
  round the addresses, to each as soon as it said, and slower and slower.
"""

import time
from collections.abc import Callable, Collection
from typing import Final

from segue_client.errors import Cancelled, DeadlineExceeded, NotExact, SegueError, ServerBusy, ServerUnavailable
from segue_client.messages.events import Continuation
from segue_client.protocol.addresses import Addresses, Use
from segue_client.protocol.deadline import Deadline
from segue_client.protocol.tries import Tries, is_failure, is_refusal_of_one

RESUME_SECONDS: Final = 30.0
"""How long an answered call keeps trying."""

_SHORTEST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 1.0


class RetryState:
    """The retries of one call, over any number of servers."""

    def __init__(
        self,
        addresses: Addresses,
        deadline: Deadline,
        patience: float | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        in_session: bool = False,
    ) -> None:
        """`patience`: seconds without progress after which an answered call fails; None: it fails at once."""
        self.deadline = deadline
        self._addresses = addresses
        self._patience = patience
        self._clock = clock
        self._in_session = in_session
        self._answered = False
        self._use: Use | None = None
        """The latest try."""
        self._is_answered_there = False
        self._raised: SegueError | None = None
        self._has_told = False
        self._next: Collection[str] = addresses.all
        """Where the next try may go."""
        self._reset()

    @property
    def enabled(self) -> bool:
        """Whether an answered call is tried elsewhere."""
        return self._patience is not None

    def begin(self) -> Use:
        """Begin a try at the best address that is left; raise DeadlineExceeded if it is too late."""
        if self.deadline.left == 0:
            raise self._final(DeadlineExceeded("the timeout has passed"))
        self._use = self._addresses.begin(self._next, in_session=self._in_session)
        self._is_answered_there = False
        return self._use

    def note_answer(self) -> None:
        """Note that a server has accepted the call."""
        self._answered = True
        if self._use and not self._is_answered_there:
            self._is_answered_there = True
            self._addresses.note_answer(self._use.address, in_session=self._in_session)

    def note_progress(self) -> None:
        """Note a new result of the call: the patience starts again."""
        self.note_answer()
        if self._failing_since is not None:
            self._reset()

    def delay_after(self, error: SegueError) -> float:
        """Return the seconds to wait before the next try, or raise what to tell the caller if there is none left."""
        if self._use is None or not (is_failure(error) or is_refusal_of_one(error)):
            raise self._final(error)
        self._note(self._use.address, error)
        if self.deadline.left == 0 or (self._answered and self._is_out_of_patience()):
            raise self._final(error)
        if untried := [address for address in self._addresses.all if address not in self._tries]:
            self._next = untried
            return 0.0
        if not self._answered or self._tries.are_refusals:
            raise self._final(error)
        return self._wait()

    def notice(self) -> str | None:
        """Return what to tell a person who waits: once, when waiting begins; otherwise None."""
        if self._has_told or self._delay == _SHORTEST_DELAY or self._patience is None:
            return None
        self._has_told = True
        return f"no server takes the call: {self._tries}; trying again for up to {self._patience:g} s"

    def _reset(self) -> None:
        self._failing_since: float | None = None
        self._tries = Tries()
        self._next = self._addresses.all
        self._ready: dict[str, float] = {}
        """When each address that failed may be tried again, the least recent one first."""
        self._delay = _SHORTEST_DELAY
        self._has_told = False

    def _note(self, address: str, error: SegueError) -> None:
        self._failing_since = self._clock() if self._failing_since is None else self._failing_since
        self._tries.add(address, error)
        hint = error.retry_after if isinstance(error, ServerBusy) else None
        self._ready.pop(address, None)
        self._ready[address] = self._clock() + (hint or 0.0)
        if is_failure(error):
            self._addresses.note_failure(address, error)
        if self.enabled and _was_reached(error):
            self._answered = True

    def _is_out_of_patience(self) -> bool:
        return self._patience_left() <= 0

    def _patience_left(self) -> float:
        if self._patience is None:
            return 0.0
        since = self._clock() if self._failing_since is None else self._failing_since
        return self._patience - (self._clock() - since)

    def _wait(self) -> float:
        """Choose the address that may be tried again first, and return the seconds until then."""
        address = min(self._ready, key=self._ready.__getitem__)
        self._next = (address,)
        delay, self._delay = self._delay, min(2 * self._delay, _LONGEST_DELAY)
        delay = max(delay, self._ready[address] - self._clock())
        left = self.deadline.left
        return min(delay, self._patience_left(), delay if left is None else left)

    def _final(self, error: SegueError) -> SegueError:
        """Return what to raise for the last error, once."""
        if error is not self._raised:
            self._raised = self._tries.final(error)
            self._raised.__cause__ = error.__cause__
        return self._raised


def _was_reached(error: SegueError) -> bool:
    """Whether there is a server, though it did not answer. A stopping server cancels the calls it has not begun."""
    return isinstance(error, Cancelled) or (isinstance(error, ServerUnavailable) and error.was_reached)


def rounding_difference(before: Continuation, now: Continuation) -> NotExact | None:
    """Return the error of resuming at a host that rounds differently; None for a host of the same build and class."""
    if (before.sha256, before.host_class) == (now.sha256, now.host_class):
        return None
    return NotExact(
        f"after a break there is only build {now.sha256[:12]} of the model on a host of class {now.host_class}; the "
        f"text was begun by build {before.sha256[:12]} on one of class {before.host_class}; to resume anyway, choose "
        "exact=False"
    )
