"""The measured rate: what it converges to, what moves it, and what must not."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.runners.arrays import STEP_ROWS
from segue_server.engine.sequence import Sequence, State
from segue_server.runtime.engine_thread import EngineThread
from segue_server.runtime.measured_rate import LONG_WINDOW, WINDOW, MeasuredRate, calibrate

ROWS = 256
RATES = st.floats(1e3, 1e7)


def fullness(rows: int) -> float:
    return rows / (rows + STEP_ROWS) * (ROWS + STEP_ROWS) / ROWS


def work(rate: MeasuredRate, per_second: float, rows: int = ROWS, seconds: float = 1.0, tick: float = 0.02) -> None:
    """Let an engine that reaches `per_second` with full batches work on `rows` rows, for some seconds."""
    for _ in range(round(seconds / tick)):
        rate.observe(round(per_second * fullness(rows) * tick), tick, fullness(rows))


@given(RATES, RATES, st.integers(1, ROWS))
def test_it_finds_the_rate_of_full_batches_whatever_it_began_with(first: float, real: float, rows: int) -> None:
    rate = MeasuredRate(first)
    work(rate, real, rows, seconds=20 * WINDOW / fullness(rows), tick=0.2)
    assert rate.rate == pytest.approx(real, rel=0.05)


def test_two_slow_seconds_change_little_over_a_long_window() -> None:
    rate, long_rate = MeasuredRate(50_000), MeasuredRate(50_000, LONG_WINDOW)
    for each in (rate, long_rate):
        work(each, 12_500, seconds=2)
    assert rate.rate < 25_000
    assert 45_000 < long_rate.rate < 50_000


@given(RATES)
def test_an_engine_that_gets_slower_is_noticed_within_two_windows(real: float) -> None:
    rate = MeasuredRate(real)
    for factor in (0.25, 1.0):
        work(rate, real * factor, seconds=2 * WINDOW)
        assert rate.rate == pytest.approx(real * factor, rel=0.5)


@given(RATES, st.floats(0.02, 1000))
def test_a_process_that_stands_still_once_is_no_slow_one(real: float, standstill: float) -> None:
    rate = MeasuredRate(real)
    rate.observe(round(real * 0.02), standstill, 1.0)
    assert rate.rate >= 0.75 * real


@given(RATES, st.lists(st.floats(0.5, 2), min_size=200, max_size=200))
def test_noise_of_single_ticks_hardly_moves_it(real: float, noise: list[float]) -> None:
    rate, seen = MeasuredRate(real), []
    for factor in noise:
        rate.observe(round(real * 0.02), 0.02 * factor, 1.0)
        seen.append(rate.rate)
    assert max(seen[i + 1] / seen[i] for i in range(len(seen) - 1)) < 1.05
    assert min(seen[i + 1] / seen[i] for i in range(len(seen) - 1)) > 0.95


def test_nothing_is_learned_from_nothing() -> None:
    rate = MeasuredRate(1000)
    for symbols, seconds, full in ((0, 5.0, 0.0), (0, 5.0, 1.0), (5, 0.0, 1.0)):
        rate.observe(symbols, seconds, full)
    assert rate.rate == 1000


def writing(model: Model, seed: int, characters: int = 2**40) -> Sequence:
    state = State.after_first(1, model.state_shape, seed)
    return Sequence(state, np.empty(0, dtype=np.int64), characters, keep_state=False)


def symbols_of_work(model: Model, sequences: list[Sequence], ticks: int) -> list[tuple[int, float]]:
    engine, found = Engine(model), []
    for sequence in sequences:
        engine.add(sequence)
    for _ in range(ticks):
        engine.step(8, 400)
        found.append((engine.symbols, engine.fullness))
    return found


def test_full_batches_are_full_and_a_single_row_is_worth_what_its_step_costs(model: Model) -> None:
    rows = Engine(model).most_rows
    full = symbols_of_work(model, [writing(model, seed) for seed in range(rows)], 3)
    assert full == [(16 * rows, 1.0), (8 * rows, 1.0), (8 * rows, 1.0)]  # the first one seats them
    [_, alone] = symbols_of_work(model, [writing(model, 0)], 2)
    assert alone == (8, pytest.approx((rows + STEP_ROWS) / (rows * (1 + STEP_ROWS))))
    [*_, over] = symbols_of_work(model, [writing(model, 0, characters=3)], 2)
    assert over == (0, 0)


def test_every_symbol_read_and_written_is_counted_once(model: Model) -> None:
    """By ticks and by outputs; what pads the rows of a run is not."""
    state, engine = State.after_first(1, model.state_shape, 0), Engine(model)
    both = Sequence(state, np.ones(100, dtype=np.int64), 30, score_prefill=True, marks=(50,))
    reads, writes = Sequence(state, np.ones(70, dtype=np.int64)), writing(model, 1, 33)
    short = [Sequence(state, np.ones(count, dtype=np.int64)) for count in (4, 5, 6)]
    by_tick, padded, by_output = 0, 0, dict.fromkeys((*short, both, reads, writes), 0)
    for sequence in by_output:
        engine.add(sequence)
    while len(engine):
        before = sum(sequence.unread for sequence in by_output)
        outputs = [*engine.step(7, 300), *engine.collect()]
        by_tick += engine.symbols
        read = before - sum(sequence.unread for sequence in by_output)
        assert engine.symbols >= read
        padded += 0 < read < engine._slots
        for output in outputs:
            by_output[output.sequence] += output.symbols
    assert list(by_output.values()) == [4, 5, 6, 130, 70, 33]
    assert by_tick == 248
    assert padded
    assert both.unread == reads.unread == 0


def test_calibration_is_short_and_says_about_what_an_engine_does(model: Model) -> None:
    began = time.monotonic()
    rate = calibrate(model)
    assert time.monotonic() - began < 10  # 0.2 s, where nothing else runs
    assert 1e3 < rate < 1e8


async def test_a_thread_measures_while_it_works_and_not_while_it_waits(model: Model) -> None:
    thread = EngineThread(Engine(model), asyncio.get_running_loop(), "test", 1.0)
    thread.start()
    try:
        async with asyncio.timeout(60):
            assert thread.rate == 1.0
            sequences = [writing(model, seed, 3000) for seed in range(20)]
            for stream in [thread.open(sequence) for sequence in sequences]:
                while (await stream.next_output()).finish is None:
                    pass
            while thread.live:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # the last tick is observed after its outputs are on their way
            learned = thread.rate
            assert learned > 1000
            await asyncio.sleep(1)
            assert thread.rate == learned
            last = writing(model, 99, 10)  # after a pause, a tick counts from where it began
            assert (await thread.open(last).next_output()).written.size
            assert thread.rate > 0.5 * learned
    finally:
        thread.stop()
