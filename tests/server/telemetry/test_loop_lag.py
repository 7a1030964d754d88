"""The watchdog of the event loop, on loops that are held."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from segue_server.telemetry.loop_lag import LongestLag, LoopLag


@asynccontextmanager
async def watched() -> AsyncIterator[CollectorRegistry]:
    metrics = CollectorRegistry()
    lag = LoopLag(metrics)
    try:
        yield metrics
    finally:
        lag.stop()


def hold_the_loop(seconds: float) -> None:
    time.sleep(seconds)


async def test_a_held_loop_is_measured_and_named(caplog: pytest.LogCaptureFixture) -> None:
    async with watched() as metrics:
        await asyncio.sleep(0.2)
        hold_the_loop(0.6)
        await asyncio.sleep(0.2)
    longest = metrics.get_sample_value("segue_event_loop_lag_longest_seconds")
    assert longest is not None
    assert longest > 0.5
    over = metrics.get_sample_value("segue_event_loop_lag_seconds_bucket", {"le": "0.5"})
    assert over != metrics.get_sample_value("segue_event_loop_lag_seconds_count")
    (line,) = [record.getMessage() for record in caplog.records if "hold_the_loop" in record.getMessage()]
    assert line.startswith("the event loop was late by 0.")
    assert "test_loop_lag.py" in line
    assert "\n" not in line


async def test_a_loop_that_is_held_again_and_again_writes_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with watched() as metrics:
            for _ in range(5):
                hold_the_loop(0.2)
                await asyncio.sleep(0.06)
    assert sum("late" in record.getMessage() for record in caplog.records) == 1
    count = metrics.get_sample_value("segue_event_loop_lag_seconds_count")
    short = metrics.get_sample_value("segue_event_loop_lag_seconds_bucket", {"le": "0.1"})
    assert count is not None
    assert short is not None
    assert count - short >= 4


async def test_the_watchdog_ends_with_its_server() -> None:
    async with watched():
        assert "loop watchdog" in {thread.name for thread in threading.enumerate()}
    deadline = time.monotonic() + 30
    while "loop watchdog" in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1))  # whole: no rounding
def test_the_longest_is_that_of_the_last_minute(steps: list[tuple[int, int]]) -> None:
    longest, seen, now = LongestLag(60), [], 0
    for gap, value in steps:
        now += gap
        longest.add(now, value)
        seen.append((now, value))
        assert longest.at(now) == max(value for then, value in seen if then > now - 60)
    assert longest.at(now + 60) == 0
