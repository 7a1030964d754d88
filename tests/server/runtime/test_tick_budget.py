"""The tick budget: what it learns, and what it never exceeds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_server.engine.model import STEP_ROWS
from segue_server.runtime import tick_budget as module
from segue_server.runtime.tick_budget import TickBudget

ROWS = st.integers(0, 256)
TICKS = st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10**6)), max_size=30)


def after(ticks: list[tuple[float, int]]) -> TickBudget:
    budget = TickBudget()
    for seconds, work in ticks:
        budget.observe(seconds, work)
    return budget


@given(TICKS, ROWS)
def test_whatever_it_has_seen_a_tick_has_steps_and_an_end(ticks: list[tuple[float, int]], rows: int) -> None:
    budget = after(ticks)
    assert TickBudget.SHORTEST <= budget.steps(rows) <= TickBudget.LONGEST
    assert 0 <= budget.prefill_work(alone=False) <= budget.prefill_work(alone=True)


@given(st.floats(1e-6, 1e-2), ROWS)
def test_it_learns_what_a_row_costs_and_fills_the_time_that_it_has(cost: float, rows: int) -> None:
    budget = after([(cost * 1000, 1000)] * 100)
    step, seconds = cost * (rows + STEP_ROWS), max(module.DECODE, module.DECODE_PER_ROW * rows)
    steps = budget.steps(rows)
    assert steps == TickBudget.SHORTEST or steps * step <= seconds * 1.001
    assert steps == TickBudget.LONGEST or (steps + 1) * step > seconds * 0.999
    for alone, seconds in ((False, module.PREFILL), (True, module.PREFILL_ALONE)):
        assert budget.prefill_work(alone=alone) * cost == pytest.approx(seconds, rel=0.001, abs=1.01 * cost)


def test_the_first_tick_is_short_and_one_slow_tick_is_no_rule() -> None:
    budget = TickBudget()
    assert budget.steps(1) == TickBudget.SHORTEST
    learned = after([(1e-4, 100)] * 60)
    before = learned.prefill_work(alone=False)
    learned.observe(2e-4, 100)
    assert before * 0.8 < learned.prefill_work(alone=False) < before
    for _ in range(30):
        learned.observe(1e-4, 100)
    assert learned.prefill_work(alone=False) == pytest.approx(before, rel=0.01)


def test_a_tick_without_work_teaches_nothing() -> None:
    budget = TickBudget()
    before = budget.steps(10)
    budget.observe(5.0, 0)
    assert budget.steps(10) == before


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_messages_come_less_often_as_streams_add_up_within_bounds(streams: int, more: int) -> None:
    budget = TickBudget()
    few, many = budget.flush_interval(streams), budget.flush_interval(streams + more)
    assert module.FLUSH <= few <= many <= module.LONGEST_FLUSH
    assert budget.flush_interval(1) == module.FLUSH
    assert budget.flush_interval(10**6) == module.LONGEST_FLUSH
