"""What came of the tries of one call, and the one error that tells of all of them."""

from copy import copy
from dataclasses import dataclass

from segue_client.errors import (
    START_ONE,
    Cancelled,
    DeadlineExceeded,
    ForeignSession,
    InvalidRequest,
    ModelNotFound,
    NotExact,
    SegueError,
    ServerBusy,
    ServerUnavailable,
    SessionNotFound,
    reworded,
)


def is_failure(error: SegueError) -> bool:
    """Whether the same call can succeed later, or at another address."""
    return isinstance(error, ServerBusy | ServerUnavailable | Cancelled)


def is_refusal_of_one(error: SegueError) -> bool:
    """Whether another address may answer differently: with other models, sessions, keys or another class of host."""
    if isinstance(error, InvalidRequest):
        return error.reason == "INVALID_TICKET"
    return isinstance(error, ModelNotFound | SessionNotFound | ForeignSession | NotExact)


def broken_off(what: str, characters: int, error: SegueError) -> SegueError:
    """Return `error`, which ended `what` after so many characters, with a message that says where."""
    if isinstance(error, InvalidRequest) or not characters:
        return error
    return reworded(error, f"the {what} broke off after {characters:,} characters: {error}")


@dataclass
class _Outcomes:
    """What came of the tries at one address."""

    first: str
    latest: SegueError
    count: int = 1

    def __str__(self) -> str:
        latest = _brief(self.latest)
        if self.count == 1:
            return latest
        times = f"{self.count} times: " if self.first == latest else f"{self.first}; after {self.count} tries: "
        return times + latest


class Tries:
    """The failed tries of one call since something new arrived."""

    def __init__(self) -> None:
        self._outcomes: dict[str, _Outcomes] = {}

    def add(self, address: str, error: SegueError) -> None:
        """Note another one."""
        error = copy(error)  # without its traceback, which would keep the caller's objects alive
        if outcomes := self._outcomes.get(address):
            outcomes.latest = error
            outcomes.count += 1
        else:
            self._outcomes[address] = _Outcomes(_brief(error), error)

    def __contains__(self, address: str) -> bool:
        return address in self._outcomes

    @property
    def are_refusals(self) -> bool:
        """Whether every address answered, and refused the call."""
        return not any(is_failure(error) for error in self._latest)

    def __str__(self) -> str:
        return ", ".join(f"{address} ({outcomes})" for address, outcomes in self._outcomes.items())

    def final(self, error: SegueError) -> SegueError:
        """Return what to raise for the last error: it tells of all tries, if there were several."""
        if isinstance(error, DeadlineExceeded) and self._outcomes:
            return reworded(error, f"{error}, after other tries: {self}")
        is_only = sum(outcomes.count for outcomes in self._outcomes.values()) <= 1
        if is_only or self.are_refusals or not (is_failure(error) or is_refusal_of_one(error)):
            return error
        if busy := [each for each in self._latest if isinstance(each, ServerBusy)]:
            return self._busy(busy)
        last = error if is_failure(error) else next(filter(is_failure, self._latest))
        if all(isinstance(each, ServerUnavailable) and not each.was_reached for each in self._latest):
            return reworded(last, f"no server is available: {self}; {START_ONE}")
        return reworded(last, f"no server takes the call: {self}")

    @property
    def _latest(self) -> list[SegueError]:
        return [outcomes.latest for outcomes in self._outcomes.values()]

    def _busy(self, errors: list[ServerBusy]) -> ServerBusy:
        hints = [error.retry_after for error in errors if error.retry_after is not None]
        soonest = reworded(errors[0], f"no server takes the call: {self}")
        soonest.retry_after = min(hints, default=None)
        return soonest


def _brief(error: SegueError) -> str:
    """Say what happened at an address, without naming it again."""
    if isinstance(error, ServerUnavailable):
        return error.cause or str(error)
    return "it cancelled the call" if isinstance(error, Cancelled) else str(error)
