"""Whether, where and when a call is tried again after a failure. No I/O: the caller makes the calls, and waits.

    retry = RetryState(addresses, Deadline.after(timeout), patience=30.0)
    while True:
        try:
            return call(retry.address, timeout=retry.deadline.left)
        except SegueError as error:
            sleep(retry.delay_after(error))

A call that no server has answered yet is tried once at each address, so that a user without a server learns of it at
once. A call that was answered is worth waiting for, until nothing has arrived for as long as the caller is patient.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

from segue_client.errors import Cancelled, InvalidRequest, NotExact, SegueError, ServerBusy, ServerUnavailable
from segue_client.messages.events import Continuation

RESUME_SECONDS: Final = 30.0
"""How long an answered call keeps trying."""

_SHORTEST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 1.0


class Addresses:
    """One or several addresses of interchangeable servers, and the one in use. Any thread may use it."""

    def __init__(self, target: str | Sequence[str]) -> None:
        """`target`: one gRPC name, such as HOST:PORT, or several. Raises InvalidRequest if there is none."""
        self.all = (target,) if isinstance(target, str) else tuple(dict.fromkeys(target))
        if not all(self.all) or not self.all:
            raise InvalidRequest(f"the server's address is {target!r}; name one, such as 127.0.0.1:50051, or several")
        self._current = 0
        self._lock = Lock()

    @property
    def current(self) -> str:
        """The address in use."""
        return self.all[self._current]

    def leave(self, address: str) -> str:
        """Stop using `address`, where a call failed; return the address in use from now on.

        Of many calls that fail at one address, only the first moves on.
        """
        with self._lock:
            if self.all[self._current] == address:
                self._current = (self._current + 1) % len(self.all)
            return self.current


@dataclass(frozen=True)
class Deadline:
    """One time limit over several calls: a time of the monotonic clock, in seconds; None is never."""

    at: float | None

    @classmethod
    def after(cls, timeout: float | None) -> "Deadline":
        """Return the deadline `timeout` seconds from now."""
        return cls(None if timeout is None else time.monotonic() + timeout)

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, 0 once it has passed; None without a limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())


class RetryState:
    """The retries of one call, over any number of servers."""

    def __init__(
        self,
        addresses: Addresses,
        deadline: Deadline,
        patience: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`patience`: seconds without progress after which an answered call fails; None: it fails at once."""
        self.address = addresses.current
        """Where the next try goes."""
        self.deadline = deadline
        self._addresses = addresses
        self._patience = patience
        self._clock = clock
        self._answered = False
        self._reset()

    @property
    def enabled(self) -> bool:
        """Whether an answered call is tried elsewhere."""
        return self._patience is not None

    def note_answer(self) -> None:
        """Note that a server has accepted the call."""
        self._answered = True

    def note_progress(self) -> None:
        """Note a new result of the call: the patience starts again."""
        self._answered = True
        if self._failing_since is not None:
            self._reset()

    def delay_after(self, error: SegueError) -> float:
        """Return the seconds to wait before the next try, or raise `error` if there are no retries left."""
        if not self._is_retryable(error) or self.deadline.left == 0:
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

    def _reset(self) -> None:
        self._failing_since: float | None = None
        self._failed: set[str] = set()
        self._delay = _SHORTEST_DELAY

    def _is_retryable(self, error: SegueError) -> bool:
        """Whether the same call can succeed later or elsewhere. The caller knows that it did not cancel it."""
        if isinstance(error, ServerBusy):  # once answered, a full server is one more obstacle
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
        """Return 0 for the first try at an address, otherwise longer and longer delays."""
        if self.address not in self._failed:
            return 0.0
        delay, self._delay = self._delay, min(2 * self._delay, _LONGEST_DELAY)
        return max(delay, error.retry_after or 0.0) if isinstance(error, ServerBusy) else delay

    def _limited(self, delay: float) -> float:
        left = self.deadline.left
        return delay if left is None else min(delay, left)


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
