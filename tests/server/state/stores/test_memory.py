"""The store in memory: what its contract leaves open."""

import pytest
from segue_server.errors import StoreFull
from segue_server.state.clock import LASTING_SECONDS
from segue_server.state.stores.memory import ENTRY_BYTES, MemoryStore


async def test_expired_sessions_leave_nothing_behind(clock) -> None:
    store = MemoryStore(clock=clock)
    for turn in range(50):
        await store.create("/tiny", {f"{turn}.{i}": b"1" for i in range(8)}, 60 + turn % 7)
        for i in range(4):
            await store.fetch("/tiny", f"{turn}.{i}")
        clock.move(100)
    clock.move(1000 + LASTING_SECONDS)
    await store.names("/tiny", "", 1)
    assert (store._spaces, store._due, store._count, store._bytes) == ({}, [], 0, 0)


async def test_a_full_store_refuses_new_sessions_and_drops_none(clock) -> None:
    store = MemoryStore(max_bytes=10 * (ENTRY_BYTES + 100), clock=clock)
    for i in range(10):
        await store.create("/tiny", {f"{i}": bytes(100)}, 10_000 if i else 60)
    with pytest.raises(StoreFull):
        await store.create("/tiny", {"more": bytes(100)}, 60)
    entry = await store.fetch("/tiny", "9")
    assert entry is not None
    with pytest.raises(StoreFull):
        await store.replace("/tiny", "9", entry.revision, bytes(101))
    assert await store.replace("/tiny", "9", entry.revision, bytes(100))
    assert len(await store.names("/tiny", "", 99)) == 10
    clock.move(200 + LASTING_SECONDS)  # the first of them has expired for good
    await store.create("/tiny", {"more": bytes(100)}, 60)
    with pytest.raises(StoreFull):
        await store.create("/tiny", {"still more": bytes(1)}, 60)


async def test_sessions_that_are_closed_and_opened_again_leave_nothing_behind(clock) -> None:
    store = MemoryStore(clock=clock)
    for turn in range(1000):
        await store.create("/tiny", {f"{turn % 10}": b"1"}, 10**6)
        entry = await store.fetch("/tiny", f"{turn % 10}")
        assert entry is not None
        if turn % 10:
            assert await store.delete("/tiny", f"{turn % 10}", entry.revision)
    assert await store.names("/tiny", "", 99) == ["0"]
    assert len(store._due) < 100


async def test_names_that_are_taken_again_after_they_expired_leave_nothing_behind(clock) -> None:
    store = MemoryStore(clock=clock)
    for _ in range(1000):
        assert await store.create("/tiny", {"a": b"1"}, 1) is None
        clock.move(2)
    assert len(store._due) < 100
    assert store._count == 1
