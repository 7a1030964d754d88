"""Who is let in, by the work before a call and the time that it has."""

import pytest
from segue_server.errors import Overloaded
from segue_server.runtime.admission import FEWEST_PLACES, Admission, Capacity
from segue_server.runtime.backlog import Backlog
from segue_server.runtime.owner import NOBODY, Owner

RATE = 1000.0
MIB = 2**20


def busy(seconds: float, owner: Owner = NOBODY) -> Backlog:
    """A backlog of so many seconds of work, of another connection."""
    backlog = Backlog(lambda: RATE)
    backlog.add(Owner("others", owner.tenant, owner.patient), int(seconds * RATE))
    return backlog


def admission(longest_wait: float = 2.0) -> Admission:
    return Admission(Capacity(64 * MIB, 100), longest_wait)


def test_without_a_deadline_a_call_waits_for_as_long_as_configured() -> None:
    admission(2.0).let_in([busy(1.9)], NOBODY, None)
    with pytest.raises(Overloaded, match=r"takes 2\.1 s, and it can wait for 2\.0 s"):
        admission(2.0).let_in([busy(2.1)], NOBODY, None)
    admission(5.0).let_in([busy(2.1)], NOBODY, None)


def test_with_a_deadline_it_waits_for_half_of_the_time() -> None:
    admission().let_in([busy(4.9)], NOBODY, 10.0)
    with pytest.raises(Overloaded, match=r"takes 5\.1 s, and it can wait for 5\.0 s"):
        admission().let_in([busy(5.1)], NOBODY, 10.0)
    with pytest.raises(Overloaded):
        admission().let_in([busy(0.6)], NOBODY, 1.0)


def test_who_can_wait_longer_queues_apart() -> None:
    assert not admission(2.0).is_patient(None)
    assert not admission(2.0).is_patient(4.0)
    assert admission(2.0).is_patient(4.1)
    patient = Owner("", "", patient=True)
    admission().let_in([busy(60, patient)], NOBODY, None)  # not behind them


def test_a_long_text_waits_for_sixteen_times_as_long_as_it_takes_to_read_or_for_half_of_its_time() -> None:
    long = 1000
    admission(2.0).check_wait(busy(15.9), NOBODY, None, long)
    with pytest.raises(Overloaded, match=r"takes 16\.1 s, and it can wait for 16\.0 s"):
        admission(2.0).check_wait(busy(16.1), NOBODY, None, long)
    with pytest.raises(Overloaded, match=r"takes 5\.1 s, and it can wait for 5\.0 s"):
        admission(2.0).check_wait(busy(5.1), NOBODY, 10.0, long)
    admission(20.0).check_wait(busy(16.1), NOBODY, None, long)


def test_a_refusal_says_when_to_retry_within_bounds_and_is_counted() -> None:
    full, delays = admission(2.0), []
    for seconds in (2.5, 10.0, 1000.0):
        for _ in range(20):
            with pytest.raises(Overloaded) as refusal:
                full.let_in([busy(seconds)], NOBODY, None)
            delays.append(refusal.value.retry_after)
    assert 0.07 < min(delays) < max(delays) <= 30.0
    assert len(set(delays[:20])) > 10, "those refused together return together"
    assert full.late == 60


def test_of_several_models_one_that_has_time_is_enough_until_the_model_is_known() -> None:
    idle = busy(0)
    admission().let_in([busy(9), idle], NOBODY, None)
    assert idle.seconds == 0, "nothing is expected of a model that may not be meant"
    with pytest.raises(Overloaded):
        admission().let_in([busy(9), busy(8)], NOBODY, None)


def test_short_memory_lets_nobody_in() -> None:
    short = admission()
    short.is_memory_short = True
    with pytest.raises(Overloaded, match="memory is short"):
        short.let_in([busy(0)], NOBODY, 60.0)


def test_places_follow_from_speed_and_state_size() -> None:
    assert Capacity.of(2**40, rate=50_000, state_bytes=2048).places == 10_000
    assert Capacity.of(2**40, rate=10, state_bytes=2048).places == FEWEST_PLACES
    assert Capacity.of(32 * MIB, rate=50_000, state_bytes=2**14).places == 16 * MIB // (2**16 + 4 * 2**14)
    assert Capacity.of(1, rate=50_000, state_bytes=2**14).places == 1
    assert Capacity.of(32 * MIB, rate=10, state_bytes=1, places=7).places == 7


def test_as_many_places_as_are_fair_or_none() -> None:
    places = Admission(Capacity(64 * MIB, 100), 2.0)
    first, second = Owner("first", ""), Owner("second", "")
    with places.some(1000, first) as granted, places.some(1000, second) as more:
        assert granted >= 25
        assert more >= 5
    with places.exactly(50, first), pytest.raises(Overloaded, match="has its share"), places.some(9, first):
        pass
    assert places.places.taken == 0
