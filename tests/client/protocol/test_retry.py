"""Whether, where and when a call goes on."""

from typing import Any

import pytest
from hand_set_clock import HandSetClock
from hypothesis import given
from hypothesis import strategies as some
from segue_client import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    NotExact,
    SegueError,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
    SessionMoved,
    SessionNotFound,
)
from segue_client.protocol.addresses import Addresses
from segue_client.protocol.deadline import Deadline
from segue_client.protocol.retry import RetryState

A, B, C = "a:1", "b:1", "c:1"
NOBODY = ServerUnavailable("nobody answers", cause="Connection refused")
BROKEN = ServerUnavailable("broken", was_reached=True, cause="Socket closed")
FOREIGN_TICKET = InvalidRequest("the ticket is not valid here", reason="INVALID_TICKET")


def busy(seconds: float | None = None) -> ServerBusy:
    return ServerBusy("full", retry_after=seconds)


@pytest.fixture
def make(clock: HandSetClock) -> Any:
    def make(
        *addresses: str, patience: float | None = 30.0, timeout: float | None = None, in_session: bool = False
    ) -> RetryState:
        return RetryState(Addresses(addresses, clock), Deadline.after(timeout), patience, clock, in_session=in_session)

    return make


def fail(retry: RetryState, *errors: SegueError) -> list[tuple[str, float]]:
    """Fail at each try; return where, and the delay after it."""
    failed = []
    for error in errors:
        with retry.begin() as use:
            pass
        failed.append((use.address, retry.delay_after(error)))
    return failed


def following(retry: RetryState) -> str:
    """Where the next try goes."""
    return retry.begin().address


def test_before_a_call_was_answered_each_address_is_tried_once(make: Any) -> None:
    retry = make(A, B, C)
    assert fail(retry, NOBODY, NOBODY) == [(A, 0), (B, 0)]
    assert following(retry) == C
    with pytest.raises(ServerUnavailable):
        retry.delay_after(NOBODY)


def test_though_other_calls_change_what_is_good_each_address_is_tried(clock: HandSetClock) -> None:
    addresses = Addresses([A, B, C], clock)
    retry = RetryState(addresses, Deadline.after(None), 30.0, clock)
    tried = [following(retry)]
    with pytest.raises(ServerUnavailable):
        while True:
            for address in (A, B, C):
                addresses.note_failure(address, NOBODY)
            retry.delay_after(NOBODY)
            tried.append(following(retry))
    assert sorted(tried) == [A, B, C]


def test_an_answered_call_waits_longer_and_longer_but_never_for_an_address_it_has_not_tried(
    make: Any,
) -> None:
    retry = make(A, B)
    retry.note_answer()
    delays = [delay for _, delay in fail(retry, *[NOBODY] * 8)]
    assert delays == [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert following(retry) == A
    retry.note_progress()
    assert [delay for _, delay in fail(retry, *[NOBODY] * 3)] == [0, 0.05, 0.1]


def test_patience_begins_with_the_first_failure_after_something_new(make: Any, clock: HandSetClock) -> None:
    retry = make(A, patience=30.0)
    retry.begin()
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
    retry = make(A)
    assert fail(retry, BROKEN, NOBODY) == [(A, 0.05), (A, 0.1)]


def test_without_resuming_an_answered_call_ends_and_another_one_tries_each_address(make: Any) -> None:
    retry = make(A, B, patience=None)
    assert not retry.enabled
    assert fail(retry, BROKEN) == [(A, 0)]
    retry.note_answer()
    with pytest.raises(ServerUnavailable):
        fail(retry, BROKEN)


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("no"), ServerFault("no"), SessionMoved("no"), DeadlineExceeded("no")],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_mended_is_raised(make: Any, error: SegueError) -> None:
    retry = make(A, B)
    retry.begin()
    retry.note_answer()
    with pytest.raises(type(error)) as caught:
        retry.delay_after(error)
    assert caught.value is error


def test_a_full_server_is_an_obstacle_on_the_way_and_a_refusal_at_the_start(make: Any) -> None:
    retry = make(A)
    with pytest.raises(ServerBusy):
        fail(retry, busy(3.0))
    retry.note_answer()
    assert fail(retry, busy(3.0)) == [(A, 3.0)]


@pytest.mark.parametrize("patience", [30.0, None])
def test_a_full_server_is_left_at_once_for_the_next(make: Any, patience: float | None) -> None:
    retry = make(A, B, C, patience=patience)
    assert fail(retry, busy(3.0), NOBODY) == [(A, 0), (B, 0)]
    assert following(retry) == C


def test_where_all_are_full_a_new_call_fails_with_the_smallest_hint(make: Any) -> None:
    retry = make(A, B, C)
    fail(retry, busy(3.0), busy(1.5))
    with pytest.raises(ServerBusy) as caught:
        fail(retry, NOBODY)
    assert caught.value.retry_after == 1.5
    assert str(caught.value) == f"no server takes the call: {A} (full), {B} (full), {C} (Connection refused)"


def test_an_answered_call_waits_for_each_full_server_as_long_as_it_says(make: Any, clock: HandSetClock) -> None:
    retry = make(A, B)
    retry.note_answer()
    assert fail(retry, busy(3.0), busy(1.0)) == [(A, 0), (B, 1.0)]
    clock.now = 1.0
    assert fail(retry, busy(1.5)) == [(B, 1.5)], "which is at 2.5, before the 3.0 of the other"
    clock.now = 2.5
    assert fail(retry, busy(5.0)) == [(B, 0.5)]
    assert following(retry) == A


def test_one_more_try_comes_at_the_end_of_the_patience(make: Any, clock: HandSetClock) -> None:
    retry = make(A, patience=10.0)
    retry.note_answer()
    assert fail(retry, busy(3600.0)) == [(A, 10.0)]
    clock.now = 10.0
    with pytest.raises(ServerBusy):
        fail(retry, busy(3600.0))


@pytest.mark.parametrize("refusal", [NotExact("rounds"), ModelNotFound("no such model"), FOREIGN_TICKET])
def test_what_one_address_refuses_another_may_grant(make: Any, refusal: SegueError) -> None:
    retry = make(A, B)
    assert fail(retry, refusal) == [(A, 0)]
    assert following(retry) == B
    with pytest.raises(type(refusal)) as caught:
        retry.delay_after(refusal)
    assert str(caught.value) == str(refusal)


def test_a_session_that_one_server_does_not_know_may_be_at_the_one_that_is_full(make: Any) -> None:
    retry = make(A, B, in_session=True)
    fail(retry, busy(2.0))
    with pytest.raises(ServerBusy, match=r"b:1 \(no session 'x'\)"):
        fail(retry, SessionNotFound("no session 'x'"))


def test_a_peer_that_cancels_has_broken_the_call(make: Any) -> None:
    retry = make(A, B)
    retry.note_answer()
    assert fail(retry, Cancelled("by the other side")) == [(A, 0)]
    assert following(retry) == B


def test_nothing_goes_on_beyond_the_deadline(make: Any) -> None:
    retry = make(A, B, timeout=0)
    with pytest.raises(DeadlineExceeded):
        retry.begin()
    retry = make(A, timeout=0.02)
    retry.note_answer()
    [(_, delay)] = fail(retry, BROKEN)
    assert delay <= 0.02


def test_the_error_tells_of_all_tries(make: Any, clock: HandSetClock) -> None:
    retry = make(A, B)
    retry.note_answer()
    fail(retry, BROKEN, busy(), NOBODY, busy(), NOBODY)
    clock.now = 30.0
    with pytest.raises(ServerBusy) as caught:
        fail(retry, busy())
    tries = "a:1 (Socket closed; after 3 tries: Connection refused), b:1 (3 times: full)"
    assert str(caught.value) == f"no server takes the call: {tries}"


def test_where_nobody_answers_the_error_names_each_address_and_the_remedy(make: Any) -> None:
    retry = make(A, B)
    with pytest.raises(ServerUnavailable) as caught:
        fail(retry, NOBODY, NOBODY)
    assert str(caught.value) == (
        "no server is available: a:1 (Connection refused), b:1 (Connection refused); "
        "start one with: segue serve MODELS_FOLDER"
    )


def test_a_timeout_after_other_tries_tells_of_them(make: Any) -> None:
    retry = make(A, B)
    fail(retry, NOBODY)
    with pytest.raises(DeadlineExceeded, match=r"^too late, after other tries: a:1 \(Connection refused\)$"):
        fail(retry, DeadlineExceeded("too late"))


def test_a_person_is_told_once_that_a_call_waits(make: Any) -> None:
    retry = make(A, B)
    retry.note_answer()
    told = []
    for _ in range(4):
        fail(retry, NOBODY)
        told.append(retry.notice())
    assert [notice is not None for notice in told] == [False, True, False, False]
    assert "trying again for up to 30 s" in str(told[1])
    retry.note_progress()
    fail(retry, NOBODY, NOBODY)
    assert retry.notice()


CLOSE = 1e-9
"""Seconds."""

FAILURES = some.sampled_from([NOBODY, BROKEN, busy(), busy(0.3), busy(7.0), Cancelled("no"), NotExact("no")])


@given(some.lists(FAILURES, max_size=80), some.integers(1, 4), some.sampled_from([None, 0.0, 5.0]), some.booleans())
def test_whatever_fails_each_address_has_its_turn_and_nothing_waits_beyond_patience(
    failures: list[SegueError], count: int, patience: float | None, begun: bool
) -> None:
    clock = HandSetClock()
    addresses = [f"{number}:1" for number in range(count)]
    retry = RetryState(Addresses(addresses, clock), Deadline.after(None), patience, clock)
    if begun:
        retry.note_answer()
    tried: list[str] = []
    ready = dict.fromkeys(addresses, 0.0)
    for failure in failures:
        use = retry.begin()
        assert clock.now >= min(ready[use.address], patience or 0.0) - CLOSE, "as it said"
        tried.append(use.address)
        ready[use.address] = clock.now + (getattr(failure, "retry_after", None) or 0.0)
        use.end()
        try:
            delay = retry.delay_after(failure)
        except SegueError:
            break
        assert delay == 0 if len(tried) < count else delay > 0
        clock.now += delay
        assert clock.now <= (patience or 0.0) + CLOSE
    else:
        assert len(set(tried)) == min(len(tried), count), "nobody twice before all others once"
        return
    may_give_up_early = begun and not patience
    assert may_give_up_early or set(tried) == set(addresses) or clock.now >= (patience or 0.0) - CLOSE
