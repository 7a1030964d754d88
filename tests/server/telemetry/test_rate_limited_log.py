"""The log that clients cannot fill: nothing is lost count of, and no kind writes more than a line a period."""

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_server.telemetry.rate_limited_log import MAX_KINDS, RateLimitedLog


class Lines(logging.Handler):
    """Collects what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.at: list[float] = []
        self.now = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.at.append(self.now)


@pytest.fixture
def lines() -> Lines:
    return Lines()


def limited(lines: Lines, period: float = 10.0) -> RateLimitedLog:
    log = logging.Logger("limited")  # noqa: LOG001 - one for each test
    log.addHandler(lines)
    return RateLimitedLog(log, period, lambda: lines.now)


def told(line: str) -> int:
    """How many messages a line stands for, besides itself if it is one."""
    numbers = [int(word) for word in line.replace("(", " ").split() if word.isdigit()]
    return sum(numbers) + ("more since" not in line)


@given(st.lists(st.floats(0, 25), min_size=1, max_size=60), st.booleans())
def test_every_message_is_counted_and_lines_are_a_period_apart(gaps: list[float], flushing: bool) -> None:
    lines = Lines()
    faults = limited(lines)
    for gap in gaps:
        lines.now += gap
        if flushing:
            faults.flush()
        faults.warn("a kind", "it happened")
    lines.now += 10
    faults.flush()
    assert sum(map(told, lines.lines)) == len(gaps)
    assert all(after - before >= 9.999 for before, after in zip(lines.at, lines.at[1:], strict=False))


def test_kinds_do_not_silence_each_other(lines: Lines) -> None:
    faults = limited(lines)
    for _ in range(3):
        faults.warn("unread", "a stream was not read for %g s", 60)
        faults.warn("unsent", "100%% of %s", "it")
    assert lines.lines == ["a stream was not read for 60 s", "100% of it"]


def test_kinds_without_end_cost_no_memory_and_few_lines(lines: Lines) -> None:
    faults = limited(lines)
    for number in range(10_000):
        faults.warn(f"kind {number}", "made up")
    assert len(lines.lines) == MAX_KINDS + 1
    assert len(faults._kinds) == MAX_KINDS + 1


def test_threads_do_not_lose_counts(lines: Lines) -> None:
    faults = limited(lines)
    threads = [threading.Thread(target=lambda: [faults.warn("kind", "it") for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines.now = 10
    faults.flush()
    assert lines.lines == ["it", "7999 more since the last such line: kind"]


def test_a_flush_of_quiet_kinds_writes_nothing_and_forgets_them(lines: Lines) -> None:
    faults = limited(lines)
    faults.warn("kind", "it")
    faults.flush()
    lines.now = 10
    faults.flush()
    assert lines.lines == ["it"]
    assert not faults._kinds
