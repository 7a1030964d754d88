"""Whether, where and when a call goes on after a failure. No I/O: who makes the call also waits.

    resumption = Resumption(addresses, Deadline.after(timeout), patience=30.0)
    while True:
        try:
            return call(resumption.address, timeout=resumption.deadline.left)
        except SegueError as error:
            sleep(resumption.delay_after(error))

A call that was not answered yet is tried once at each address, so that a user without a server learns of it at once. A
call that was is worth waiting for: until nothing has come for as long as the caller's patience lasts.
"""

import time
from collections.abc import Callable
from typing import Final

from segue_client.errors import Cancelled, SegueError, ServerBusy, ServerUnavailable
from segue_client.protocol.addresses import Addresses
from segue_client.protocol.deadline import Deadline

RESUME_SECONDS: Final = 30.0
"""How long a call that was answered goes on trying."""

_SHORTEST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 1.0


class RetryState:
    """What one call does about its failures, however many servers it takes."""

    def __init__(
        self,
        addresses: Addresses,
        deadline: Deadline,
        patience: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`patience`: seconds without progress after which a call that was answered fails; None: at once."""
        self.address = addresses.current
        """Where the next try goes."""
        self.deadline = deadline
        self._addresses = addresses
        self._patience = patience
        self._clock = clock
        self._answered = False
        self._start_anew()

    @property
    def enabled(self) -> bool:
        """Whether a call that was answered goes on elsewhere."""
        return self._patience is not None

    def answered(self) -> None:
        """Note that a server has taken the call."""
        self._answered = True

    def progressed(self) -> None:
        """Note that something new has come of it: patience begins anew."""
        self._answered = True
        if self._failing_since is not None:
            self._start_anew()

    def delay_after(self, error: SegueError) -> float:
        """Return how many seconds to wait until the next try; raise `error` where there is to be none."""
        if not self._can_be_mended(error) or self.deadline.left == 0:
            raise error
        if self.enabled and _was_reached(error):
            self._answered = True
        self._failed.add(self.address)
        following = self._addresses.leave(self.address)
        if not self._answered:
            following = self._first_untried(following, error)
        elif self._is_out_of_patience():
            raise error
        self.address = following
        return self._limited(self._next_delay(error))

    def _start_anew(self) -> None:
        self._failing_since: float | None = None
        self._failed: set[str] = set()
        self._delay = _SHORTEST_DELAY

    def _can_be_mended(self, error: SegueError) -> bool:
        """Whether the same call can succeed later, or elsewhere. The caller knows that it has not cancelled it."""
        if isinstance(error, ServerBusy):  # where a call goes on, a full server is one more obstacle
            return self._answered
        return isinstance(error, ServerUnavailable | Cancelled)

    def _first_untried(self, following: str, error: SegueError) -> str:
        if following not in self._failed:
            return following
        for address in self._addresses.all:
            if address not in self._failed:
                return address
        raise error

    def _is_out_of_patience(self) -> bool:
        if self._patience is None:
            return True
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        return now - self._failing_since >= self._patience

    def _next_delay(self, error: SegueError) -> float:
        """Return none for the first try at an address, otherwise longer and longer ones."""
        if self.address not in self._failed:
            return 0.0
        delay, self._delay = self._delay, min(2 * self._delay, _LONGEST_DELAY)
        return max(delay, error.retry_after or 0.0) if isinstance(error, ServerBusy) else delay

    def _limited(self, delay: float) -> float:
        left = self.deadline.left
        return delay if left is None else min(delay, left)


def _was_reached(error: SegueError) -> bool:
    """Whether there is a server, though it gave no answer. One that stops cancels calls which it has not begun."""
    return isinstance(error, Cancelled) or (isinstance(error, ServerUnavailable) and error.was_reached)
