"""What the file store promises beyond the contract: durability, and what it says when the file fails it."""

import asyncio
import gc
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from segue_server.errors import StoreFull, StoreUnavailable
from segue_server.state.clock import LASTING_SECONDS
from segue_server.state.stores.sqlite import SqliteStore, _Command, _Database
from segue_server.state.stores.sqlite_file import open_file

IDLE = 3600

WRITER = """
import asyncio, sys
from pathlib import Path
from segue_server.state.stores.sqlite import SqliteStore

async def count_up(store, name):
    await store.create("/tiny", {name: b"0"}, 3600)
    while True:
        entry = await store.peek("/tiny", name)
        number = int(entry.record) + 1
        assert await store.replace("/tiny", name, entry.revision, b"%d" % number)
        print(name, number, flush=True)

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    await asyncio.gather(*(count_up(store, f"{sys.argv[2]}.{i}") for i in range(8)))

asyncio.run(main())
"""

ADDER = """
import asyncio, sys
from pathlib import Path
from segue_server.state.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    await store.create("/tiny", {"sum": b"0"}, 3600)
    for _ in range(100):
        while True:
            entry = await store.fetch("/tiny", "sum")
            if await store.replace("/tiny", "sum", entry.revision, b"%d" % (int(entry.record) + 1)):
                break
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


async def test_sessions_outlive_the_store(path: Path) -> None:
    records = {f"{i}": random.Random(i).randbytes(2300) for i in range(100)}
    for turn in range(3):
        store = SqliteStore(path)
        await store.open()
        if turn == 0:
            await store.create("/tiny", records, IDLE)
        for name, record in records.items():
            entry = await store.fetch("/tiny", name)
            assert entry is not None
            assert entry.record == record
            records[name] = random.Random(turn).randbytes(3000)
            assert await store.replace("/tiny", name, entry.revision, records[name])
        await store.close()
        assert not list(path.parent.glob("*-wal"))


def killed_writer(path: Path, name: str, lines: int) -> list[str]:
    """Have a process change sessions, kill it after it has acknowledged so many changes, and return them all."""
    command = [sys.executable, "-c", WRITER, str(path), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
    return [line for line in acknowledged if line.endswith("\n")]


async def test_what_was_acknowledged_survives_sigkill(path: Path) -> None:
    generator, acknowledged = random.Random(1), dict[str, int]()
    for turn in range(12):
        for line in killed_writer(path, str(turn), generator.randrange(1, 400)):
            name, number = line.split()
            acknowledged[name] = int(number)
        store = SqliteStore(path)
        await store.open()
        for name, number in acknowledged.items():
            entry = await store.peek("/tiny", name)
            assert entry is not None
            assert int(entry.record) in (number, number + 1)
        await store.close()


def test_several_processes_share_a_file_from_its_first_moment(path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", ADDER, str(path)]) for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT record FROM sessions").fetchone() == (b"400",)
    connection.close()


def test_a_change_is_on_the_disk_before_anybody_hears_of_it(path: Path) -> None:
    """No power fails here: that SQLite was told to flush each transaction is as far as a test goes."""
    connection = open_file(path)
    full = 2
    assert connection.execute("PRAGMA synchronous").fetchone() == (full,)
    connection.close()


def test_a_file_that_another_is_making_is_no_stranger(tmp_path: Path) -> None:
    """Whose a file is, and whether it is empty, must be read at one moment: the table may appear between the two."""
    barrier = threading.Barrier(4)

    def open_all(_: int) -> None:
        for number in range(100):
            barrier.wait(10)
            open_file(tmp_path / f"{number}").close()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(open_all, range(4))) == [None] * 4


async def fill(store: SqliteStore, record_bytes: int) -> int:
    """Make sessions until the store takes no more; return how many."""
    made = 0
    with pytest.raises(StoreFull):
        while True:
            await store.create("/tiny", {f"{made:04}": bytes(record_bytes)}, IDLE)
            made += 1
    return made


async def test_a_full_file_lets_no_session_grow(path: Path) -> None:
    store = SqliteStore(path, max_bytes=1_000_000)
    await store.open()
    await fill(store, 200)
    entry = await store.peek("/tiny", "0000")
    assert entry
    with pytest.raises(StoreFull):
        await store.replace("/tiny", "0000", entry.revision, bytes(30_000))
    assert await store.peek("/tiny", "0000") == entry
    assert await store.replace("/tiny", "0000", entry.revision, bytes(200))
    await store.close()


async def test_expired_sessions_are_removed_in_time(path: Path, clock) -> None:
    store = SqliteStore(path, clock=clock)
    await store.open()
    await store.create("/tiny", {f"{i}": b"1" for i in range(1000)}, 60)
    clock.move(100 + LASTING_SECONDS)
    for i in range(40):
        await store.create("/tiny", {f"new {i}": b"1"}, 3600)
    assert await count(store) == 1040 - 40 * 16
    await store.close()


async def test_a_quiet_store_is_tidied(path: Path, clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue_server.state.stores.batch_thread._REST_SECONDS", 0.02)
    store = SqliteStore(path, clock=clock)
    await store.open()
    await store.create("/tiny", {f"{i}": b"1" for i in range(1200)}, 60)
    clock.move(100 + LASTING_SECONDS)
    with sqlite3.connect(path) as connection:
        while connection.execute("SELECT count(*) FROM sessions").fetchone() != (0,):
            await asyncio.sleep(0.01)
    connection.close()
    await store.close()


async def test_using_a_session_seldom_writes(store: SqliteStore, path: Path) -> None:
    await store.create("/tiny", {"a": b"1"}, 7 * 86_400)
    before = path.with_name("sessions-wal").stat().st_size
    for _ in range(100):
        assert await store.fetch("/tiny", "a")
    assert path.with_name("sessions-wal").stat().st_size == before


async def test_a_full_store_refuses_new_sessions_and_drops_none(path: Path) -> None:
    store = SqliteStore(path, max_bytes=1_000_000)
    await store.open()
    made = await fill(store, 2300)
    assert 300 < made < 450
    assert len(await store.names("/tiny", "", 999)) == made
    entry = await store.peek("/tiny", "0000")
    assert entry is not None
    assert await store.replace("/tiny", "0000", entry.revision, bytes(2300))
    for name in (await store.names("/tiny", "", 999))[:50]:
        entry = await store.peek("/tiny", name)
        assert entry is not None
        assert await store.delete("/tiny", name, entry.revision)
    await store.create("/tiny", {"more": bytes(2300)}, IDLE)
    await store.close()


async def test_expired_sessions_make_room(path: Path, clock) -> None:
    store = SqliteStore(path, max_bytes=1_000_000, clock=clock)
    await store.open()
    await store.create("/tiny", {f"{i}": bytes(2300) for i in range(300)}, 60)
    with pytest.raises(StoreFull):
        await store.create("/tiny", {"large": bytes(500_000)}, 60)
    clock.move(100 + LASTING_SECONDS)
    await store.create("/tiny", {"large": bytes(500_000)}, 60)
    await store.close()


async def test_a_full_disk_fails_only_what_finds_no_room(store: SqliteStore) -> None:
    await store.create("/tiny", {"small": b"1", "large": b"1"}, IDLE)
    await on_file(store, lambda file: file._connection.execute(f"PRAGMA max_page_count = {pages(file) + 4}"))
    small, large = await store.peek("/tiny", "small"), await store.peek("/tiny", "large")
    assert small
    assert large
    answers = await asyncio.gather(
        store.replace("/tiny", "large", large.revision, bytes(1_000_000)),
        store.replace("/tiny", "small", small.revision, b"2"),
        store.create("/tiny", {"larger": bytes(1_000_000)}, IDLE),
        store.fetch("/tiny", "large"),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers[:3]] == [StoreFull, bool, StoreFull]
    assert "disk" in str(answers[0])
    assert (await store.peek("/tiny", "small")).record == b"2"
    assert (await store.peek("/tiny", "large")).record == b"1"
    assert await store.names("/tiny", "", 9) == ["large", "small"]


async def test_a_file_that_another_program_holds_is_unavailable_for_writing(
    store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await store.create("/tiny", {"a": b"1"}, IDLE)
    await on_file(store, lambda file: file._connection.execute("PRAGMA busy_timeout = 50"))
    entry = await store.peek("/tiny", "a")
    assert entry
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.replace("/tiny", "a", entry.revision, b"2")
    assert (await store.fetch("/tiny", "a")).record == b"1"
    holder.execute("COMMIT")
    holder.close()
    assert await store.replace("/tiny", "a", entry.revision, b"2")
    assert "database is locked" in caplog.text


async def test_however_many_wait_for_a_locked_file_nobody_waits_much_longer_than_the_first(
    store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted in waits: a slow machine may take longer for each."""
    await store.create("/tiny", {f"{i}": b"1" for i in range(40)}, IDLE)
    waits = list[float]()
    database = store._runner._backend
    do = database._answers

    def counting(commands: list[_Command]) -> list[Any]:
        before, answers = database._patience, do(commands)
        failed = [isinstance(answer, StoreUnavailable) for answer in answers]
        waits.extend([before] if any(failed) else [])
        assert failed == [command.writes for command in commands]  # those that only read need no lock
        return answers

    database._answers = counting
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    async def call(name: str) -> None:
        entry = await store.fetch("/tiny", name)
        assert entry
        with pytest.raises(StoreUnavailable):
            await store.replace("/tiny", name, entry.revision, b"2")

    first = asyncio.create_task(call("0"))
    await asyncio.sleep(0.2)
    await asyncio.gather(first, *(call(f"{i}") for i in range(1, 40)))
    assert waits[0] == 2.0
    assert set(waits[1:]) == {0.05}
    assert len(waits) < 10
    database._answers = do
    holder.execute("COMMIT")
    holder.close()
    entry = await store.peek("/tiny", "0")
    assert entry
    assert await store.replace("/tiny", "0", entry.revision, b"2")
    assert database._patience == 2.0
    assert caplog.text.count("database is locked") == 1


async def test_what_is_locked_and_what_is_full_at_once_takes_one_wait(store: SqliteStore, path: Path) -> None:
    """After a failure each command has its own transaction: not each its own wait, too."""
    await store.create("/tiny", {"a": b"1"}, IDLE)
    database = store._runner._backend
    await on_file(store, lambda file: file._wait_at_most(0.05))
    began: list[str] = []
    lock = database._lock

    def counting() -> None:
        began.append("")
        if len(began) == 1:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        lock()

    database._lock = counting
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    commands = [_Command(_Database.delete, ("/tiny", f"{i}", 1)) for i in range(50)]
    reading = _Command(_Database.find, ("/tiny", "a"), writes=False)
    *failures, found = await on_file(store, lambda file: file._answers([*commands, reading]))
    holder.close()
    assert {type(failure) for failure in failures} == {StoreUnavailable}
    assert found.record == b"1"
    assert len(began) == 2


async def test_rows_that_are_no_sessions_are_empty(store: SqliteStore, path: Path) -> None:
    await store.create("/tiny", dict.fromkeys(("text", "number", "idle", "sound"), b"1"), IDLE)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sessions SET record = 'text' WHERE name = 'text'")
        connection.execute("UPDATE sessions SET record = 1.5 WHERE name = 'number'")
        connection.execute("UPDATE sessions SET idle_seconds = 'x' WHERE name = 'idle'")
    connection.close()
    for name in ("text", "number", "idle"):
        for entry in (await store.fetch("/tiny", name), await store.peek("/tiny", name)):
            assert entry
            assert entry.record == b""
    entry = await store.fetch("/tiny", "sound")
    assert entry
    assert entry.record == b"1"
    assert len(await store.names("/tiny", "", 9)) == 4


async def test_a_file_that_may_no_longer_be_written_fails_changes_in_one_line(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    """`query_only` stands for a file system that was mounted anew for reading only: SQLite answers the same."""
    await store.create("/tiny", {"a": b"1"}, IDLE)
    entry = await store.peek("/tiny", "a")
    assert entry
    await on_file(store, lambda file: file._connection.execute("PRAGMA query_only = 1"))
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            await store.replace("/tiny", "a", entry.revision, b"2")
        assert await store.peek("/tiny", "a") == entry
    [line] = [line for line in caplog.records if line.levelname == "WARNING"]
    assert "readonly" in line.getMessage()
    await on_file(store, lambda file: file._connection.execute("PRAGMA query_only = 0"))
    assert await store.replace("/tiny", "a", entry.revision, b"2")


@pytest.mark.parametrize("cause", ["locked", "lost"])
async def test_a_refused_call_leaves_nothing_in_memory(store: SqliteStore, path: Path, cause: str) -> None:
    """An error that leads back to itself, by its traceback, would keep the call's record until the next collection."""
    await store.create("/tiny", {"a": b"1"}, IDLE)
    await on_file(store, lambda file: file._wait_at_most(0.01))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    async def refused() -> None:
        with suppress(StoreUnavailable):
            await store.replace("/tiny", "a", 1, bytes(10_000))

    def commands() -> int:
        return sum(type(each) is _Command for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = commands()
        if cause == "lost":
            path.rename(path.with_name("aside"))  # noqa: ASYNC240
        await asyncio.gather(*(refused() for _ in range(50)))
        await refused()
        assert commands() <= before + 1  # the thread's last one
    finally:
        gc.enable()
    holder.close()


async def test_a_damaged_file_is_unavailable_and_the_log_says_why(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.create("/tiny", {f"{i}": bytes(2300) for i in range(500)}, IDLE)
    await store.close()
    with path.open("r+b") as file:
        for page in range(2, 60):
            file.seek(page * 16_384)
            file.write(b"\xff" * 200)
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(StoreUnavailable):
        await store.peek("/tiny", "7")
    assert "malformed" in caplog.text
    await store.close()


async def on_file(store: SqliteStore, do: Any) -> Any:
    return await store._runner.do(_Command(do, (), writes=False))


async def count(store: SqliteStore) -> int:
    rows = await on_file(store, lambda file: file._connection.execute("SELECT count(*) FROM sessions").fetchone())
    return rows[0]


def pages(file: _Database) -> int:
    return file._connection.execute("PRAGMA page_count").fetchone()[0]
