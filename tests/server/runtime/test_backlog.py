"""How long a call has to wait, by hand-computed values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_server.engine.sequence import NO_IDS, Sequence, State
from segue_server.runtime.backlog import TURN, Backlog
from segue_server.runtime.owner import Owner

RATE = 1000.0
ME, YOU = Owner("mine", "me"), Owner("yours", "you")


def backlog() -> Backlog:
    return Backlog(lambda: RATE)


def writes(count: int, prompt: int = 0) -> Sequence:
    ids = np.zeros(prompt, dtype=np.int64) if prompt else NO_IDS
    return Sequence(State.after_first(1, (1, 2), 0), ids, count)


def test_a_text_waits_for_all_that_its_group_has_to_do() -> None:
    work = backlog()
    work.enter(writes(200, prompt=100), ME)
    work.enter(writes(500), ME)
    assert work.wait(ME) == pytest.approx(0.8)
    assert work.seconds == pytest.approx(0.8)


def test_of_a_long_sequence_only_a_turn_counts() -> None:
    work = backlog()
    work.enter(writes(1_000_000), ME)
    assert work.wait(ME) == pytest.approx(TURN / RATE)


def test_of_another_group_no_more_counts_than_of_ones_own() -> None:
    work = backlog()
    for _ in range(50):
        work.enter(writes(1000), YOU)
    usual = work.wait(ME)  # a group that has nothing waits for as much as its call will need
    assert 0 < usual < TURN / RATE
    work.enter(writes(300), ME)
    assert 2 * 0.3 < work.wait(ME) < 2 * 0.3 + TURN / RATE
    assert work.wait(YOU) == pytest.approx((50 * TURN + 300) / RATE)


def test_patient_calls_queue_apart_from_others() -> None:
    work = backlog()
    for _ in range(50):
        work.enter(writes(1000), Owner("mine", "me", patient=True))
    assert work.wait(ME) < TURN / RATE


def test_patient_calls_wait_as_long_as_the_engine_needs_in_the_long_run() -> None:
    work, patient = Backlog(lambda: RATE / 4, lambda: RATE), Owner("mine", "me", patient=True)
    work.enter(writes(500), ME)
    work.enter(writes(500), patient)
    assert work.wait(ME) > 4 * 0.5
    assert 0.5 < work.wait(patient) <= 1.0
    assert work.admits(Owner("another", "me", patient=True), 1.0)
    assert not work.admits(Owner("another", "me"), 1.0)


def test_what_was_done_no_longer_counts() -> None:
    work, sequence = backlog(), writes(200, prompt=100)
    work.enter(sequence, ME)
    work.advance(sequence, 1 + 100 + 50)
    assert work.wait(ME) == pytest.approx(0.15)
    work.leave(sequence)
    work.leave(sequence)
    work.advance(sequence, 1 + 200)
    assert work.wait(ME) == 0


def test_what_is_only_read_counts_whole_until_its_end() -> None:
    work = backlog()
    sequence = Sequence(State.after_first(1, (1, 2), 0), np.zeros(300, dtype=np.int64))
    work.enter(sequence, ME)
    work.advance(sequence, 1 + 200)
    assert work.wait(ME) == pytest.approx(0.3)
    work.pause(sequence)
    work.advance(sequence, 1 + 250)
    assert work.wait(ME) == pytest.approx(0.3)
    work.leave(sequence)
    assert work.seconds == 0


def test_a_long_text_waits_for_as_much_of_each_other_as_it_is_long_itself() -> None:
    work = backlog()
    long, longer = writes(600, prompt=3000), writes(10, prompt=50_000)
    work.enter(long, ME)
    work.enter(longer, ME)
    work.enter(writes(200), ME)
    assert work.wait(ME) == work.wait(ME, text=TURN) == pytest.approx((2 * TURN + 200) / RATE)
    assert work.wait(ME, text=2000) == pytest.approx((2000 + 2000 + 200) / RATE)
    assert work.wait(ME, text=10_000) == pytest.approx((3000 + 10_000 + 200) / RATE)
    assert not work.admits(Owner("another", "me"), 13.0, text=10_000)
    assert work.admits(Owner("another", "me"), 13.3, text=10_000)
    assert not work.admits(ME, 13.3, text=10_000), "three times what it leaves is its share"

    work.advance(long, 1 + 1000)
    assert work.wait(ME, text=10_000) == pytest.approx((2000 + 10_000 + 200) / RATE)
    work.advance(long, 1 + 3001)  # has begun to write
    assert work.wait(ME, text=10_000) == pytest.approx((TURN + 10_000 + 200) / RATE)
    work.leave(longer)
    assert work.wait(ME, text=10_000) == work.wait(ME) == pytest.approx((TURN + 200) / RATE)


def test_of_another_group_a_long_text_waits_for_no_more_than_it_is_long_itself() -> None:
    work = backlog()
    for _ in range(50):
        work.enter(writes(10, prompt=3000), YOU)
    assert work.wait(ME, text=2000) == pytest.approx(2000 / RATE)
    assert work.wait(YOU, text=2000) == pytest.approx(50 * 2000 / RATE)


def test_a_call_that_was_let_in_counts_before_it_has_a_sequence_and_only_once() -> None:
    work = backlog()
    settle = work.expect(ME)
    assert work.wait(ME) > 0
    settle()
    settle()
    assert work.wait(ME) == work.seconds == 0


def test_a_connection_has_no_more_than_its_share_of_the_time() -> None:
    """Others of the same tenant are let in when it no longer is."""
    work = backlog()
    while work.admits(ME, 8.0):
        work.enter(writes(TURN), ME)
    assert 6.0 <= work.wait(ME) < 6.6  # three quarters of 8 seconds, and what the last one adds
    assert work.admits(Owner("another", "me"), 8.0)


def test_an_idle_engine_admits_anyone() -> None:
    assert backlog().admits(ME, 0.001)


@given(st.lists(st.tuples(st.sampled_from([ME, YOU]), st.integers(1, 3000), st.integers(0, 3000)), max_size=30))
def test_nothing_is_left_when_all_have_left(entering: list[tuple[Owner, int, int]]) -> None:
    work, sequences = backlog(), []
    for owner, count, position in entering:
        sequences.append(writes(count, prompt=count // 2))
        work.enter(sequences[-1], owner)
        work.advance(sequences[-1], position)
    for sequence in sequences:
        work.leave(sequence)
    assert work.seconds == work.wait(ME) == work.wait(YOU) == work.wait(ME, text=10_000) == 0


def test_a_stalled_sequence_delays_nobody_until_it_goes_on() -> None:
    work, sequence = backlog(), writes(400)
    work.enter(sequence, ME)
    work.pause(sequence)
    work.pause(sequence)
    assert work.seconds == 0
    work.advance(sequence, 101)
    assert work.seconds == pytest.approx(0.3)
    work.pause(sequence)
    work.leave(sequence)
    assert work.seconds == 0


def test_many_tenants_that_have_nothing_yet_do_not_all_come_in() -> None:
    work = backlog()
    admitted = 0
    while work.admits(Owner(f"c{admitted}", f"t{admitted}"), 2.0):
        work.enter(writes(500), Owner(f"c{admitted}", f"t{admitted}"))
        admitted += 1
        assert admitted < 100
    assert admitted >= 4
