"""Whether, where and when a call goes on."""

from typing import Any

import pytest
from segue_client import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NotExact,
    SegueError,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
    SessionMoved,
)
from segue_client.protocol.retry import Addresses, Deadline, RetryState

NOBODY = ServerUnavailable("nobody answers")
BROKEN = ServerUnavailable("broken", was_reached=True)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Any:
    def make(*addresses: str, patience: float | None = 30.0, timeout: float | None = None) -> RetryState:
        return RetryState(Addresses(addresses), Deadline.after(timeout), patience, clock)

    return make


def test_before_a_call_was_answered_each_address_is_tried_once(make: Any) -> None:
    retry = make("a", "b", "c")
    tried = [retry.address]
    with pytest.raises(ServerUnavailable):
        while True:
            assert retry.delay_after(NOBODY) == 0
            tried.append(retry.address)
    assert tried == ["a", "b", "c"]


def test_though_other_calls_move_the_client_on_each_address_is_tried(clock: Clock) -> None:
    addresses = Addresses(["a", "b", "c"])
    retry = RetryState(addresses, Deadline.after(None), 30.0, clock)
    addresses.leave("a")
    addresses.leave("b")
    tried = [retry.address]
    with pytest.raises(ServerUnavailable):
        while True:
            retry.delay_after(NOBODY)
            tried.append(retry.address)
    assert sorted(tried) == ["a", "b", "c"]


def test_many_calls_that_fail_at_one_address_move_on_by_one() -> None:
    addresses = Addresses(["a", "b", "c"])
    assert [addresses.leave("a") for _ in range(5)] == ["b"] * 5
    assert addresses.leave("b") == "c"
    assert addresses.leave("c") == "a"


@pytest.mark.parametrize("target", ["", [], ["a", ""]])
def test_an_address_is_needed(target: Any) -> None:
    with pytest.raises(InvalidRequest, match="address"):
        Addresses(target)


def test_an_answered_call_waits_longer_and_longer_but_never_for_an_address_it_has_not_tried(
    make: Any,
) -> None:
    retry = make("a", "b")
    retry.note_answer()
    delays = [retry.delay_after(NOBODY) for _ in range(8)]
    assert delays == [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert retry.address == "a"
    retry.note_progress()
    assert [retry.delay_after(NOBODY) for _ in range(3)] == [0, 0.05, 0.1]


def test_patience_begins_with_the_first_failure_after_something_new(make: Any, clock: Clock) -> None:
    retry = make("a", patience=30.0)
    retry.note_progress()
    clock.now = 1000
    retry.delay_after(BROKEN)
    clock.now = 1029
    retry.note_answer()
    retry.delay_after(BROKEN)
    clock.now = 1030
    with pytest.raises(ServerUnavailable):
        retry.delay_after(BROKEN)
    retry.note_progress()
    retry.delay_after(BROKEN)


def test_a_server_that_was_there_is_waited_for(make: Any) -> None:
    retry = make("a")
    assert retry.delay_after(BROKEN) == 0.05
    assert retry.delay_after(NOBODY) == 0.1


def test_without_resuming_an_answered_call_ends_and_another_one_tries_each_address(make: Any) -> None:
    retry = make("a", "b", patience=None)
    assert not retry.enabled
    assert retry.delay_after(BROKEN) == 0
    retry.note_answer()
    with pytest.raises(ServerUnavailable):
        retry.delay_after(BROKEN)


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("no"), ServerFault("no"), NotExact("no"), SessionMoved("no"), DeadlineExceeded("no")],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_mended_is_raised(make: Any, error: SegueError) -> None:
    retry = make("a", "b")
    retry.note_answer()
    with pytest.raises(type(error)):
        retry.delay_after(error)


def test_a_full_server_is_an_obstacle_on_the_way_and_a_refusal_at_the_start(make: Any) -> None:
    busy = ServerBusy("full", retry_after=3.0)
    retry = make("a")
    with pytest.raises(ServerBusy):
        retry.delay_after(busy)
    retry.note_answer()
    assert retry.delay_after(busy) == 3.0


def test_a_peer_that_cancels_has_broken_the_call(make: Any) -> None:
    retry = make("a", "b")
    retry.note_answer()
    assert retry.delay_after(Cancelled("by the other side")) == 0
    assert retry.address == "b"


def test_nothing_goes_on_beyond_the_deadline(make: Any) -> None:
    retry = make("a", "b", timeout=0)
    retry.note_answer()
    with pytest.raises(ServerUnavailable):
        retry.delay_after(BROKEN)
    retry = make("a", timeout=0.02)
    retry.note_answer()
    assert retry.delay_after(BROKEN) <= 0.02
