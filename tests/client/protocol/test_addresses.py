"""Which address a call goes to."""

from collections import Counter
from itertools import product
from typing import Any

import pytest
from hand_set_clock import HandSetClock
from hypothesis import given
from hypothesis import strategies as some
from segue_client import InvalidRequest, ServerBusy, ServerUnavailable
from segue_client.protocol.addresses import Addresses, Use

A, B, C = "a:1", "b:1", "c:1"
NOBODY = ServerUnavailable("nobody answers")


@pytest.fixture
def addresses(clock: HandSetClock) -> Addresses:
    return Addresses([A, B, C], clock)


def begun(addresses: Addresses, count: int, **options: Any) -> list[str]:
    """Where calls go that all run at once."""
    return [addresses.begin(addresses.all, **options).address for _ in range(count)]


@pytest.mark.parametrize("target", ["", [], ["a:1", ""]])
def test_an_address_is_needed(target: Any) -> None:
    with pytest.raises(InvalidRequest, match="address"):
        Addresses(target)


def test_calls_one_after_another_take_turns(addresses: Addresses) -> None:
    taken = []
    for _ in range(7):
        with addresses.begin(addresses.all) as use:
            taken.append(use.address)
    assert taken == [A, B, C, A, B, C, A]


def test_a_call_goes_where_the_fewest_run(addresses: Addresses) -> None:
    uses = [addresses.begin(addresses.all) for _ in range(6)]
    for use in uses:
        if use.address == B:
            use.end()
            use.end()
    assert begun(addresses, 2) == [B, B]
    assert Counter(begun(addresses, 3)) == {A: 1, B: 1, C: 1}


@given(some.lists(some.integers(-1, 20)))
def test_no_address_has_two_calls_more_than_another_unless_calls_end(steps: list[int]) -> None:
    """A number ends the call at that place; -1 begins one. A new one never goes to an address that has more."""
    addresses = Addresses([A, B, C])
    running: list[Use] = []
    for step in steps:
        if step >= 0:
            if step < len(running):
                running.pop(step).end()
            continue
        before = Counter(dict.fromkeys(addresses.all, 0))
        before.update(use.address for use in running)
        running.append(addresses.begin(addresses.all))
        assert before[running[-1].address] == min(before.values())


def test_a_full_address_is_left_alone_as_long_as_it_said(addresses: Addresses, clock: HandSetClock) -> None:
    addresses.note_failure(A, ServerBusy("full", retry_after=2.0))
    assert begun(addresses, 4) == [B, C, B, C]
    clock.now = 2.0
    assert begun(addresses, 1) == [A]


def test_one_that_does_not_answer_is_left_alone_longer_and_longer(addresses: Addresses, clock: HandSetClock) -> None:
    rests = []
    for _ in range(8):
        for _ in range(5):
            addresses.note_failure(A, NOBODY)  # of many calls that fail at once, one counts
        began = clock.now
        while A not in begun(addresses, 12):
            clock.now += 0.5
        rests.append(clock.now - began)
    assert rests == [1, 2, 4, 8, 16, 30, 30, 30]
    addresses.note_answer(A)
    addresses.note_failure(A, NOBODY)
    clock.now += 1
    assert A in begun(addresses, 12)


def test_where_all_are_left_alone_the_one_that_is_good_again_first_is_tried(addresses: Addresses) -> None:
    for address, seconds in ((A, 3.0), (B, 1.0), (C, 2.0)):
        addresses.note_failure(address, ServerBusy("full", retry_after=seconds))
    assert begun(addresses, 2) == [B, B]
    assert addresses.begin([A, C]).address == C


def test_a_full_store_of_sessions_says_nothing_of_other_calls(addresses: Addresses) -> None:
    addresses.note_failure(A, ServerBusy("full", reason="STORE_FULL", retry_after=5.0))
    addresses.note_failure(A, ServerUnavailable("hangs", reason="STORE_UNAVAILABLE"))
    assert begun(addresses, 1) == [A]


def test_calls_in_sessions_stay_together(addresses: Addresses) -> None:
    assert begun(addresses, 3, in_session=True) == [A, A, A]
    assert begun(addresses, 2) == [B, C], "which other calls respect"
    addresses.note_failure(A, NOBODY)
    assert begun(addresses, 2, in_session=True) == [B, B]
    addresses.note_answer(B, in_session=True)
    addresses.note_answer(A)
    assert begun(addresses, 2, in_session=True) == [B, B], "where one was answered last"
    assert begun(Addresses([A, B, C]), 1, in_session=True) == [A], "as in another process"


@pytest.mark.parametrize(("first", "second"), list(product([A, B, C], repeat=2)))
def test_only_the_given_addresses_are_chosen_among(addresses: Addresses, first: str, second: str) -> None:
    addresses.note_failure(first, NOBODY)
    assert addresses.begin([first]).address == first
    assert addresses.begin([first, second]).address == second
