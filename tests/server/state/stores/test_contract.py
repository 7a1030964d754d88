"""What every store promises, put to each of them."""

import asyncio
import random
import uuid
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segue_server.state.stores.store import Entry, SessionStore

IDLE = 6400
LATEST = IDLE * (1 + 1 / 64) + 61
"""By when a session that nobody used must be gone: a store may be a little late, never early."""

NAMES = ("a", "b", "c", "d")
SPACES = ("/tiny", "tenant/tiny")


async def found(store: SessionStore, name: str, space: str = "/tiny") -> Entry:
    entry = await store.peek(space, name)
    assert entry is not None
    return entry


async def test_what_was_stored_comes_back(store: SessionStore) -> None:
    records = {"a": b"one", "b": bytes(range(256)) * 4000, "c": b""}
    assert await store.create("/tiny", records, IDLE) is None
    for name, record in records.items():
        for entry in (await store.fetch("/tiny", name), await store.peek("/tiny", name)):
            assert entry is not None
            assert (entry.record, entry.idle_seconds) == (record, IDLE)
    assert await store.fetch("other/tiny", "a") is None
    assert await store.peek("/tiny", "never") is None


operations = st.one_of(
    st.tuples(st.just("fetch"), st.sampled_from(SPACES), st.sampled_from(NAMES)),
    st.tuples(st.just("peek"), st.sampled_from(SPACES), st.sampled_from(NAMES)),
    st.tuples(st.just("create"), st.sampled_from(SPACES), st.sets(st.sampled_from(NAMES), min_size=1, max_size=3)),
    st.tuples(st.just("replace"), st.sampled_from(SPACES), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.just("delete"), st.sampled_from(SPACES), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.just("names"), st.sampled_from(SPACES), st.sampled_from(("", *NAMES)), st.integers(1, 5)),
)


class Table:
    """What a store is to do, said in a few lines; it also remembers every revision that there ever was."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], bytes] = {}
        self.revisions: dict[tuple[str, str], list[int]] = {}

    async def compare(self, store: SessionStore, prefix: str, operation: tuple) -> None:
        """Do the same to the store and to the table."""
        kind, space, *rest = operation
        match kind, rest:
            case ("fetch" | "peek") as method, [name]:
                entry = await getattr(store, method)(prefix + space, name)
                assert (entry and entry.record) == self.held.get((space, name))
                if entry:
                    self.note((space, name), entry.revision)
            case "create", [names]:
                records = {name: uuid.uuid4().bytes for name in names}
                taken = {name for name in names if (space, name) in self.held}
                answer = await store.create(prefix + space, records, IDLE)
                assert answer in taken if taken else answer is None
                if not taken:
                    self.held |= {(space, name): record for name, record in records.items()}
            case "replace", [name, stale]:
                record, revision = uuid.uuid4().bytes, await self.revision(store, prefix, (space, name), stale=stale)
                may = (space, name) in self.held and not stale
                assert await store.replace(prefix + space, name, revision, record) is may
                if may:
                    self.held[space, name] = record
            case "delete", [name, stale]:
                revision = await self.revision(store, prefix, (space, name), stale=stale)
                may = (space, name) in self.held and not stale
                assert await store.delete(prefix + space, name, revision) is may
                if may:
                    del self.held[space, name]
            case "names", [after, limit]:
                names = sorted(name for where, name in self.held if where == space and name > after)
                assert await store.names(prefix + space, after, limit) == names[:limit]

    async def revision(self, store: SessionStore, prefix: str, key: tuple[str, str], *, stale: bool) -> int:
        """Return the revision that is there; or one that was there before, or never."""
        entry = await store.peek(prefix + key[0], key[1])
        if entry:
            self.note(key, entry.revision)
        if entry and not stale:
            return entry.revision
        return next((known for known in self.revisions.get(key, []) if not entry or known != entry.revision), 1)

    def note(self, key: tuple[str, str], revision: int) -> None:
        known = self.revisions.setdefault(key, [])
        if revision not in known[-1:]:
            assert revision not in known, "a revision came back"
            known.append(revision)


@given(sequence=st.lists(operations, max_size=40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_store_is_a_table(store: SessionStore, sequence: Sequence[tuple]) -> None:
    table, prefix = Table(), uuid.uuid4().hex
    for operation in sequence:
        await table.compare(store, prefix, operation)


async def test_of_many_writers_of_one_revision_one_wins(opened) -> None:
    stores = [opened.store, await opened.again() if opened.again else opened.store]
    await opened.store.create("/tiny", {"a": b"first"}, IDLE)
    for turn in range(10):
        entry = await found(opened.store, "a")
        records = [f"{turn}, {writer}".encode() for writer in range(40)]
        written = await asyncio.gather(
            *(stores[writer % 2].replace("/tiny", "a", entry.revision, record) for writer, record in enumerate(records))
        )
        assert sum(written) == 1
        assert (await found(opened.store, "a")).record == records[written.index(True)]


async def test_of_writers_and_closers_of_one_revision_one_wins(opened) -> None:
    stores = [opened.store, await opened.again() if opened.again else opened.store]
    for turn in range(10):
        name = f"s{turn}"
        await opened.store.create("/tiny", {name: b"first"}, IDLE)
        revision = (await found(opened.store, name)).revision
        writes = [stores[i % 2].replace("/tiny", name, revision, b"second") for i in range(10)]
        removals = [stores[i % 2].delete("/tiny", name, revision) for i in range(10)]
        mixed = writes + removals
        random.Random(turn).shuffle(mixed)
        assert sum(await asyncio.gather(*mixed)) == 1


async def test_new_sessions_are_made_all_or_none(opened) -> None:
    stores = [opened.store, await opened.again() if opened.again else opened.store]
    generator = random.Random(5)
    sets = [generator.sample(range(60), k=generator.randrange(1, 6)) for _ in range(100)]
    wanted = [{f"{number:02}": f"by {i}".encode() for number in numbers} for i, numbers in enumerate(sets)]
    taken = await asyncio.gather(*(stores[i % 2].create("/tiny", each, IDLE) for i, each in enumerate(wanted)))
    made = {
        name: record
        for each, name_taken in zip(wanted, taken, strict=True)
        if name_taken is None
        for name, record in each.items()
    }
    for each, name_taken in zip(wanted, taken, strict=True):
        assert name_taken is None or (name_taken in each and made[name_taken] != each[name_taken])
    assert await opened.store.names("/tiny", "", 100) == sorted(made)
    for name, record in made.items():
        assert (await found(opened.store, name)).record == record


async def test_a_session_that_was_closed_and_opened_again_is_another_one(store: SessionStore) -> None:
    await store.create("/tiny", {"a": b"the same"}, IDLE)
    before = await found(store, "a")
    assert await store.delete("/tiny", "a", before.revision)
    await store.create("/tiny", {"a": b"the same"}, IDLE)
    assert not await store.replace("/tiny", "a", before.revision, b"over it")
    assert not await store.delete("/tiny", "a", before.revision)
    assert (await found(store, "a")).record == b"the same"


@pytest.mark.parametrize("use", ["fetch", "replace"])
async def test_use_begins_the_idle_time_anew(opened, use: str) -> None:
    store, clock = opened.store, opened.clock
    await store.create("/tiny", {"used": b"1", "seen": b"1"}, IDLE)
    for _ in range(4):
        clock.move(0.6 * IDLE)
        if use == "fetch":
            assert await store.fetch("/tiny", "used")
        else:
            assert await store.replace("/tiny", "used", (await found(store, "used")).revision, b"2")
        await store.peek("/tiny", "seen")
    assert await store.peek("/tiny", "used")
    assert await store.peek("/tiny", "seen") is None


async def test_a_session_that_nobody_uses_expires_and_no_earlier(opened) -> None:
    store, clock = opened.store, opened.clock
    await store.create("/tiny", {"a": b"1"}, IDLE)
    await store.create("/tiny", {"b": b"1"}, 100 * IDLE)
    clock.move(IDLE - 10)
    before = await found(store, "a")
    assert await store.names("/tiny", "", 9) == ["a", "b"]
    assert await store.create("/tiny", {"c": b"2", "a": b"2"}, IDLE) == "a"
    clock.move(LATEST - IDLE + 10)
    assert await store.peek("/tiny", "a") is None
    assert await store.fetch("/tiny", "a") is None
    assert await store.names("/tiny", "", 9) == ["b"]
    assert not await store.replace("/tiny", "a", before.revision, b"3")
    assert not await store.delete("/tiny", "a", before.revision)
    assert await store.create("/tiny", {"a": b"4"}, IDLE) is None
    assert (await found(store, "a")).record == b"4"
    assert (await found(store, "b")).record == b"1"


async def test_the_expiry_that_is_told_is_kept(opened) -> None:
    store, clock = opened.store, opened.clock

    async def left() -> float:
        return (await found(store, "a")).expiry - clock.now()

    await store.create("/tiny", {"a": b"1"}, IDLE)
    assert IDLE - 60 <= await left() <= LATEST
    clock.move(IDLE / 2)
    assert IDLE / 2 - 60 <= await left() <= LATEST - IDLE / 2
    assert (await store.fetch("/tiny", "a")).expiry - clock.now() >= IDLE - 60
    assert IDLE - 60 <= await left() <= LATEST


async def test_names_come_in_order_and_in_full_pages(opened) -> None:
    store, generator = opened.store, random.Random(3)
    names = [f"{generator.randrange(10**6)}.{i}" for i in range(400)]
    await store.create("/tiny", dict.fromkeys(names[:200], b"1"), IDLE)
    await store.create("/tiny", dict.fromkeys(names[200:], b"1"), 100 * IDLE)
    await store.create("other/tiny", {"other": b"1"}, IDLE)
    for name in names[350:]:
        await store.delete("/tiny", name, (await found(store, name)).revision)

    async def all_pages() -> list[str]:
        page = gathered = await store.names("/tiny", "", 7)
        while len(page) == 7:
            page = await store.names("/tiny", page[-1], 7)
            gathered = gathered + page
        return gathered

    assert await all_pages() == sorted(names[:350])
    opened.clock.move(LATEST)
    assert await all_pages() == sorted(names[200:350])
    assert await store.names("/tiny", "~", 7) == []


async def test_a_cancelled_caller_costs_nobody_an_answer(store: SessionStore) -> None:
    generator = random.Random(7)
    records = {f"{i:02}": f"record {i}".encode() * 50 for i in range(64)}
    await store.create("/tiny", records, IDLE)

    async def read(name: str) -> None:
        for _ in range(10):
            entry = await store.fetch("/tiny", name)
            assert entry is not None
            assert entry.record == records[name]

    for _ in range(8):
        tasks = {name: asyncio.create_task(read(name)) for name in records}
        for name in generator.sample(sorted(tasks), 40):
            await asyncio.sleep(generator.random() / 2000)
            tasks[name].cancel()
        for result in await asyncio.gather(*tasks.values(), return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), result
