"""Every part once an interval, and few at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_server.engine.sequence import PARTS
from segue_server.runtime.flush_schedule import TOGETHER, FlushSchedule


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=200), st.floats(0.04, 1.0), st.integers(0, 2000))
def test_no_part_waits_for_more_than_an_interval_and_a_tick(ticks: list[float], interval: float, streams: int) -> None:
    schedule, now = FlushSchedule(0.0), 0.0
    last = dict.fromkeys(range(PARTS), 0.0)
    for tick in ticks:
        now += tick
        for part in schedule.due(now, interval, streams):
            last[part] = now
        assert max(now - then for then in last.values()) <= 2 * interval + max(ticks) + 1e-6


def test_short_ticks_share_the_parts_evenly() -> None:
    schedule, counts = FlushSchedule(0.0), []
    seen = [0] * PARTS
    for tick in range(1, 1601):
        due = schedule.due(tick * 0.01, 1.6, 1000)
        counts.append(len(due))
        for part in due:
            seen[part] += 1
    assert max(counts) <= 2
    assert set(seen) <= {9, 10}


def test_after_a_pause_all_are_due() -> None:
    assert FlushSchedule(0.0).due(5.0, 1.0, 1000) == frozenset(range(PARTS))


@pytest.mark.parametrize("interval", [0.04, 1.0])
def test_nothing_is_due_at_once(interval: float) -> None:
    assert not FlushSchedule(0.0).due(0.0, interval, 1000)


def test_few_streams_are_flushed_together() -> None:
    schedule = FlushSchedule(0.0)
    due = [schedule.due(tick * 0.01, 0.25, TOGETHER) for tick in range(1, 101)]
    assert {len(parts) for parts in due} == {0, PARTS}
    assert sum(map(bool, due)) == 4
