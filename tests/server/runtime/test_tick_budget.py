"""The tick budget: what it learns, and what it never exceeds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_server.engine.decode_rows import LONGEST_TICK
from segue_server.engine.runners.arrays import RUN_COST, STEP_ROWS
from segue_server.engine.runners.runner import Capacity
from segue_server.runtime import tick_budget as module
from segue_server.runtime.tick_budget import TickBudget

ON_CPU = Capacity(
    rows=256,
    prefill_rows=128,
    prefill_symbols=2**14,
    detailed_symbols=2**14,
    step_rows=STEP_ROWS,
    run_cost=RUN_COST,
    sizes=(2,),
    on_device=False,
)
ROWS = st.integers(0, 256)
SEQUENCES = st.integers(0, 10_000)
TICKS = st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10**6)), max_size=30)


def after(ticks: list[tuple[float, int]]) -> TickBudget:
    budget = TickBudget(ON_CPU)
    for seconds, work in ticks:
        budget.observe(seconds, work)
    return budget


@given(TICKS, ROWS, SEQUENCES)
def test_whatever_it_has_seen_a_tick_has_steps_and_an_end(
    ticks: list[tuple[float, int]], rows: int, writing: int
) -> None:
    budget = after(ticks)
    assert TickBudget.SHORTEST <= budget.steps(rows, writing) <= TickBudget.LONGEST
    assert 0 <= budget.prefill_work(1) <= budget.prefill_work(1 + writing) <= budget.prefill_work(0)


@given(st.floats(1e-6, 1e-2), ROWS, SEQUENCES)
def test_it_learns_what_a_row_costs_and_fills_the_time_that_it_has(cost: float, rows: int, writing: int) -> None:
    budget = after([(cost * 1000, 1000)] * 100)
    seconds = min(module.LONGEST_DECODE, max(module.DECODE, module.DECODE_PER_SEQUENCE * writing))
    step, steps = cost * (rows + STEP_ROWS), budget.steps(rows, writing)
    assert steps == TickBudget.SHORTEST or steps * step <= seconds * 1.001
    assert steps == TickBudget.LONGEST or (steps + 1) * step > seconds * 0.999
    prefill = module.PREFILL * seconds if writing else module.PREFILL_ALONE
    assert budget.prefill_work(writing) * cost == pytest.approx(prefill, rel=0.001, abs=1.01 * cost)


def test_ticks_of_a_device_may_be_longer() -> None:
    """It costs little more to write twice as much, and to hand it out takes as long."""
    for capacity, longest in (
        (ON_CPU, TickBudget.LONGEST),
        (replace(ON_CPU, on_device=True), TickBudget.LONGEST_ON_DEVICE),
    ):
        budget = TickBudget(capacity)
        for _ in range(100):
            budget.observe(1e-9, 1000)
        assert budget.steps(64, 64) == longest
    assert TickBudget.LONGEST_ON_DEVICE <= LONGEST_TICK


@given(st.floats(1e-6, 1e-2))
def test_ticks_are_as_short_for_few_sequences_as_for_one_and_longer_for_hundreds(cost: float) -> None:
    budget = after([(cost * 1000, 1000)] * 100)
    assert budget.steps(64, 1) == budget.steps(64, 64) <= budget.steps(64, 300)
    assert budget.prefill_work(1) == budget.prefill_work(64) < budget.prefill_work(300)


def test_the_first_tick_is_short_and_one_slow_tick_is_no_rule() -> None:
    budget = TickBudget(ON_CPU)
    assert budget.steps(1, 1) == TickBudget.SHORTEST
    learned = after([(1e-4, 100)] * 60)
    before = learned.prefill_work(1)
    learned.observe(2e-4, 100)
    assert before * 0.8 < learned.prefill_work(1) < before
    for _ in range(30):
        learned.observe(1e-4, 100)
    assert learned.prefill_work(1) == pytest.approx(before, rel=0.01)


def test_a_tick_without_work_teaches_nothing() -> None:
    budget = TickBudget(ON_CPU)
    before = budget.steps(10, 10)
    budget.observe(5.0, 0)
    assert budget.steps(10, 10) == before


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_messages_come_less_often_as_streams_add_up_within_bounds(streams: int, more: int) -> None:
    budget = TickBudget(ON_CPU)
    few, many = budget.flush_interval(streams), budget.flush_interval(streams + more)
    assert module.FLUSH <= few <= many <= module.LONGEST_FLUSH
    assert budget.flush_interval(1) == module.FLUSH
    assert budget.flush_interval(10**6) == module.LONGEST_FLUSH
