"""SQLite in memory: what the tests of the file store do not cover."""

from pathlib import Path

import pytest
from segue_server.errors import StoreFull
from segue_server.state.stores import open_store
from segue_server.state.stores.sqlite import SqliteStore, _Command, _Database

IDLE = 3600


async def test_nothing_is_written_and_every_store_is_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stores = [await open_store("memory:") for _ in range(2)]
    await stores[0].create("/tiny", {"a": b"1"}, IDLE)
    assert await stores[0].peek("/tiny", "a")
    assert await stores[1].peek("/tiny", "a") is None
    assert files_in(tmp_path) == []
    for store in stores:
        await store.close()


async def test_expired_sessions_leave_nothing_behind() -> None:
    now = 0.0
    store = SqliteStore(None, clock=lambda: now)
    await store.open()
    for turn in range(50):
        await store.create("/tiny", {f"{turn}.{i}": b"1" for i in range(8)}, 60 + turn % 7)
        for i in range(4):
            await store.fetch("/tiny", f"{turn}.{i}")
        now += 100
    assert await rows(store) <= 8  # what has expired since the last write
    now += 1000
    assert not await store._runner.do(_Command(_Database.tidy, (), writes=False))
    assert await rows(store) == 0
    await store.close()


async def test_a_full_store_refuses_new_sessions_and_drops_none() -> None:
    now, made = 0.0, 0
    store = await open_store("memory:", 1_000_000)
    assert isinstance(store, SqliteStore)
    store._runner._database._clock = lambda: now  # type: ignore[attr-defined]
    with pytest.raises(StoreFull):
        while True:
            await store.create("/tiny", {f"{made:04}": bytes(2300)}, 1000 if made else 60)
            made += 1
    assert 300 < made < 450
    entry = await store.fetch("/tiny", "0009")
    assert entry is not None
    with pytest.raises(StoreFull):
        await store.replace("/tiny", "0009", entry.revision, bytes(100_000))
    assert await store.replace("/tiny", "0009", entry.revision, bytes(2300))
    assert len(await store.names("/tiny", "", 999)) == made
    now += 2000  # all of them expire
    assert await store.create("/tiny", {"more": bytes(2300)}, 60) is None
    await store.close()


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def rows(store: SqliteStore) -> int:
    def count(database: _Database) -> int:
        return database._connection.execute("SELECT count(*) FROM sessions").fetchone()[0]

    return await store._runner.do(_Command(count, (), writes=False))
