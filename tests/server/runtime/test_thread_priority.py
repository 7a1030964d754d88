"""On a busy core the event loop comes before the engine, and nobody interrupts the engine all the time."""

import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from segue_server import thread_priority
from segue_server.thread_priority import NICENESS, TURN_NANOSECONDS, TurnLength, let_others_first, wait_for_turns

if sys.platform != "linux":
    pytest.skip("only Linux has a policy and a niceness for each thread", allow_module_level=True)


def test_every_thread_of_a_server_waits_for_turns_and_the_engine_longest(start_server) -> None:
    with start_server() as server:
        process = server.process.pid
        threads = [int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir()]
        policies = {os.sched_getscheduler(thread) for thread in threads}
        nicenesses = [os.getpriority(os.PRIO_PROCESS, thread) for thread in threads]
        usual = os.getpriority(os.PRIO_PROCESS, process)
    assert policies == {os.SCHED_BATCH}
    assert sorted(nicenesses) == [usual] * (len(threads) - 1) + [usual + NICENESS]


def test_a_thread_s_turns_are_long_while_they_are_to_be() -> None:
    usual = _turn()
    if usual is None:
        pytest.skip("this kernel does not tell how long a turn is: before Linux 6.12 nobody can choose")

    def lengths() -> list[int | None]:
        turns, seen = TurnLength(), list[int | None]()
        for wanted in (False, True, True, False):
            turns.lengthen(wanted)
            seen.append(_turn())
        return seen

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(lengths).result() == [usual, TURN_NANOSECONDS, TURN_NANOSECONDS, usual]
    assert _turn() == usual, "another thread's"


def _turn() -> int | None:
    """Return the nanoseconds of this thread's turns, None if the kernel does not tell."""
    scheduling = Path("/proc/thread-self/sched")
    lines = scheduling.read_text().splitlines() if scheduling.exists() else []
    return next((int(line.split(":")[1]) for line in lines if line.startswith("se.slice ")), None)


def test_where_it_is_forbidden_a_server_works_without_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    monkeypatch.setattr(os, "setpriority", forbidden)
    monkeypatch.setattr(thread_priority, "_SCHED_SETATTR", 9999)
    wait_for_turns()
    let_others_first()
    turns = TurnLength()
    for wanted in (True, False, True):
        turns.lengthen(wanted)
    assert [record.getMessage() for record in caplog.records] == [
        "threads cannot wait for their turns here (Operation not permitted): calls are refused later on a busy core",
        "threads cannot let others first here (Operation not permitted): calls are refused later on a busy core",
        "threads cannot have longer turns here (Function not implemented): calls are refused later on a busy core",
    ]
