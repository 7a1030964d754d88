"""Files of an open database that somebody removes, replaces or cuts: nothing is acknowledged that will be lost."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from segue_server.errors import StoreLost, StoreUnavailable
from segue_server.state.stores.sqlite import SqliteStore

IDLE = 3600


def aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.aside")


def remove(path: Path) -> None:
    path.unlink()


def move_away(path: Path) -> None:
    path.rename(aside(path))


def replace_by_copy(path: Path) -> None:
    shutil.copy(path, aside(path))
    aside(path).replace(path)


def retarget(path: Path) -> None:
    """Have the name lead to another file."""
    shutil.copy(path, path.with_name("other"))
    path.rename(aside(path))
    path.symlink_to("other")


CHANGES = (remove, move_away, replace_by_copy, retarget)
FILES = ("sessions", "sessions-wal", "sessions-shm")


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    return store


async def all_are_refused(store: SqliteStore) -> None:
    with pytest.raises(StoreLost):
        await store.delete("/tiny", "none", 1)  # what only reads may be answered until then, rightly
    answers = await asyncio.gather(
        store.fetch("/tiny", "a"),
        store.peek("/tiny", "a"),
        store.create("/tiny", {"new": b"1"}, IDLE),
        store.replace("/tiny", "a", 1, b"2"),
        store.delete("/tiny", "a", 1),
        store.names("/tiny", "", 9),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [StoreLost] * 6
    assert "restart" in str(answers[0])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", CHANGES)
async def test_nothing_is_served_from_files_that_are_gone_and_what_was_acknowledged_is_kept(
    tmp_path: Path, change: Callable[[Path], None], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Until a restart, which finds all that was acknowledged in whatever file was not deleted."""
    path = tmp_path / "sessions"
    store = await opened(path)
    await store.create("/tiny", {f"{i}": b"%d" % i for i in range(100)}, IDLE)
    change(tmp_path / name)
    for _ in range(3):
        await all_are_refused(store)
    [line] = [line for line in caplog.records if line.levelname == "ERROR"]
    assert str(tmp_path / name) in line.getMessage()
    await store.close()

    if name == "sessions" and change is not remove:
        found = sqlite3.connect(aside(path) if aside(path).exists() else path)  # moved, or as old as the copy
    else:
        found = sqlite3.connect(path)
    with found:
        [integrity] = found.execute("PRAGMA integrity_check").fetchone()
        tables = found.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'sessions'").fetchone()
    assert integrity == "ok"
    if change is move_away or name != "sessions":
        assert found.execute("SELECT count(*) FROM sessions").fetchone() == (100,)
    elif change is remove:
        assert tables == (0,)
    found.close()


async def test_a_log_that_stayed_behind_is_not_taken_for_that_of_the_file_that_was_put_there(tmp_path: Path) -> None:
    """A copy is put in place of the database, the server is killed, and another one starts."""
    path, copy = tmp_path / "sessions", tmp_path / "copy"
    store = await opened(path)
    await store.create("/tiny", {f"{i}": bytes(2300) for i in range(200)}, IDLE)
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    for i in range(200):
        assert await store.delete("/tiny", f"{i}", (await store.peek("/tiny", f"{i}")).revision)
    await store.create("/tiny", {f"new {i}": bytes(9000) for i in range(50)}, IDLE)
    copy.replace(path)
    with pytest.raises(StoreLost):
        await store.peek("/tiny", "new 1")
    for suffix in ("", "-wal"):  # as the killed server leaves them
        shutil.copy(tmp_path / f"sessions{suffix}", tmp_path / f"left{suffix}")
    await store.close()
    again = await opened(tmp_path / "left")
    assert await again.names("/tiny", "", 999) == sorted(f"{i}" for i in range(200))
    await again.close()


@pytest.mark.parametrize("name", FILES)
async def test_a_file_that_is_put_back_is_used_again_without_a_restart(tmp_path: Path, name: str) -> None:
    store = await opened(tmp_path / "sessions")
    await store.create("/tiny", {"a": b"1"}, IDLE)
    for turn in range(3):
        move_away(tmp_path / name)
        await all_are_refused(store)
        aside(tmp_path / name).rename(tmp_path / name)
        entry = await store.fetch("/tiny", "a")
        assert await store.replace("/tiny", "a", entry.revision, b"%d" % turn)
    await store.close()
    store = await opened(tmp_path / "sessions")
    assert (await store.peek("/tiny", "a")).record == b"2"
    await store.close()


async def test_a_write_whose_file_goes_meanwhile_is_not_acknowledged(tmp_path: Path, monkeypatch) -> None:
    """Between the look at the files and the write: there is no moment without a look after it."""
    store = await opened(tmp_path / "sessions")
    database = store._runner._backend
    do = database._answers

    def after_removal(commands):
        (tmp_path / "sessions").unlink()
        return do(commands)

    monkeypatch.setattr(database, "_answers", after_removal)
    with pytest.raises(StoreLost):
        await store.create("/tiny", {"a": b"1"}, IDLE)
    await store.close()


@pytest.mark.parametrize("size", [0, 1, 16_384, 100_000, -1])
@pytest.mark.parametrize("name", ["sessions", "sessions-wal"])
async def test_a_file_that_was_cut_is_used_no_more(tmp_path: Path, name: str, size: int) -> None:
    store = await opened(tmp_path / "sessions")
    for turn in range(4 if name == "sessions" else 1):  # beyond 1,000 pages, the log goes into the database
        await store.create("/tiny", {f"{turn}.{i}": bytes(16_000) for i in range(400)}, IDLE)
    assert (tmp_path / name).stat().st_size > 1_000_000
    os.truncate(tmp_path / name, size if size >= 0 else (tmp_path / name).stat().st_size - 1)
    with pytest.raises(StoreLost):
        await (store.create("/tiny", {"new": b"1"}, IDLE) if name == "sessions-wal" else store.peek("/tiny", "0.1"))
    os.truncate(tmp_path / name, 50_000_000)  # as long again is as good as new to nobody
    with pytest.raises(StoreLost):
        await store.peek("/tiny", "0.1")
    await store.close()


async def test_what_sqlite_itself_shortens_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "sessions"
    store = await opened(path)
    await store.create("/tiny", {f"{i}": bytes(20_000) for i in range(300)}, IDLE)
    other = sqlite3.connect(path)
    for command in ("PRAGMA wal_checkpoint(TRUNCATE)", "DELETE FROM sessions WHERE id > 9", "VACUUM"):
        other.execute(command)
        other.commit()
        assert await store.create("/tiny", {command: b"1"}, IDLE) is None
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert await store.names("/tiny", "", 1) == ["0"]
    other.close()
    assert path.stat().st_size < 1_000_000
    assert len(await store.names("/tiny", "", 99)) == 11
    await store.close()


async def test_a_quiet_store_notices_that_its_file_is_gone(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("segue_server.state.stores.batch_thread._REST_SECONDS", 0.02)
    store = await opened(tmp_path / "sessions")
    (tmp_path / "sessions").unlink()
    async with asyncio.timeout(60):
        while "SESSIONS IN" not in caplog.text:
            await asyncio.sleep(0.01)
    await store.close()


async def test_a_folder_that_nobody_may_look_into_any_more_is_lost(tmp_path: Path) -> None:
    """Root may look into every folder; so the test puts another folder in its place."""
    (tmp_path / "state").mkdir()
    store = await opened(tmp_path / "state" / "sessions")
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    (tmp_path / "state").touch()
    with pytest.raises(StoreUnavailable, match="removed"):
        await store.peek("/tiny", "a")
    await store.close()
