"""On a busy core the event loop comes before the engine, and nobody interrupts the engine all the time."""

import errno
import os
import sys
from pathlib import Path

import pytest
from segue_server.thread_priority import NICENESS, let_others_first, wait_for_turns

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


def test_where_it_is_forbidden_a_server_works_without_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    monkeypatch.setattr(os, "setpriority", forbidden)
    wait_for_turns()
    let_others_first()
    assert [record.getMessage() for record in caplog.records] == [
        "threads cannot wait for their turns here (Operation not permitted): calls are refused later on a busy core",
        "threads cannot let others first here (Operation not permitted): calls are refused later on a busy core",
    ]
