"""What the store in Redis promises beyond the contract: how it fails, and that no answer goes astray."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
from segue_server.errors import StoreFull, StoreUnavailable
from segue_server.state.stores.redis import RedisAddress, RedisStore
from segue_server.state.stores.store import SessionStore

IDLE = 3600


@pytest.fixture
def redis(start_redis) -> Iterator[object]:
    """A Redis that may be killed; it writes everything to its disk."""
    with start_redis("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


async def connected(redis, patience: float = 20) -> RedisStore:
    store = RedisStore(RedisAddress.parse(f"{redis.url}?timeout={patience}"))
    await store.open()
    return store


@pytest.fixture
async def store(redis) -> AsyncIterator[SessionStore]:
    store = await connected(redis)
    yield store
    await store.close()


async def all_fail(store: SessionStore, *, callers: int = 50) -> None:
    """Every command of many callers fails, together and soon."""
    began = time.monotonic()
    answers = await asyncio.gather(
        *(store.fetch("/tiny", "a") for _ in range(callers)),
        store.create("/tiny", {"b": b"1"}, IDLE),
        store.replace("/tiny", "a", 1, b"1"),
        store.delete("/tiny", "a", 1),
        store.names("/tiny", "", 9),
        return_exceptions=True,
    )
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    assert time.monotonic() - began < 5  # not 50 times 0.1


async def test_a_killed_redis_is_unavailable_at_once_and_used_again_once_it_is_back(
    redis, store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.create("/tiny", {"a": b"1"}, IDLE)
    for turn in range(3):
        redis.kill()
        await all_fail(store)
        redis.start()
        entry = await store.fetch("/tiny", "a")  # the very first command
        assert entry is not None
        assert await store.replace("/tiny", "a", entry.revision, b"%d" % turn)
    assert caplog.text.count("cannot be reached") == 3


async def test_a_redis_that_was_restarted_unnoticed_is_used_at_once(redis, store: SessionStore) -> None:
    await store.create("/tiny", {"a": b"1"}, IDLE)
    redis.kill()
    redis.start()
    assert await store.fetch("/tiny", "a")


def test_unless_told_otherwise_nobody_waits_longer_than_a_tenth_of_a_second() -> None:
    assert RedisAddress.parse("redis://host").timeout == 0.1


async def test_a_redis_that_hangs_is_unavailable_and_its_late_answers_go_to_nobody(redis) -> None:
    store = await connected(redis, 0.5)
    await store.create("/tiny", {f"{i}": b"%d" % i for i in range(30)}, IDLE)
    for turn in range(5):
        redis.send(signal.SIGSTOP)
        await all_fail(store)
        redis.send(signal.SIGCONT)
        answers = [None]
        while None in answers:  # it may take a moment to go on
            answers = await asyncio.gather(*(self_or_none(store, f"{i}") for i in range(30)))
        assert answers == [b"%d" % i for i in range(30)], turn
    await store.close()


async def self_or_none(store: SessionStore, name: str) -> bytes | None:
    try:
        entry = await store.fetch("/tiny", name)
    except StoreUnavailable:
        return None
    assert entry is not None
    return entry.record


async def test_whatever_is_cut_off_at_whatever_moment_nobody_gets_anothers_answer(emptied_redis) -> None:
    """Deadlines that strike in the midst of connecting, sending and reading; redis-py 4.5.3 would mix answers here."""
    generator, records = random.Random(11), {f"{i:03}": b"%d" % i * 200 for i in range(200)}
    store = await connected(emptied_redis)
    await store.create("/tiny", records, IDLE)
    link, met = store._thread._backend, {"answer": 0, "failure": 0}

    async def read(name: str) -> None:
        try:
            entry = await store.fetch("/tiny", name)
        except StoreUnavailable:
            met["failure"] += 1
            return
        assert entry is not None
        assert entry.record == records[name]
        met["answer"] += 1

    for _ in range(400):
        link._timeout = 10 ** generator.uniform(-4.5, -1.5)
        tasks = [asyncio.create_task(read(name)) for name in generator.sample(sorted(records), 12)]
        await asyncio.sleep(generator.random() / 1000)
        tasks[0].cancel()
        await asyncio.gather(*tasks[1:])
    await store.close()
    assert min(met.values()) > 200, met


async def test_a_write_that_got_no_answer_was_made_once_or_not_at_all(redis) -> None:
    """It may reach Redis long after its caller was told; never over what came in between."""
    store, other, generator = await connected(redis, 0.02), await connected(redis), random.Random(2)
    await other.create("/tiny", {"a": b"start"}, IDLE)
    for turn in range(15):
        before = await other.peek("/tiny", "a")
        assert before is not None
        redis.send(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable):
            await store.replace("/tiny", "a", before.revision, b"late %d" % turn)
        redis.send(signal.SIGCONT)
        written = False
        if generator.random() < 0.5:
            written = await retried(partial(other.replace, "/tiny", "a", before.revision, b"other %d" % turn))
        after = await retried(partial(other.peek, "/tiny", "a"))
        expected = {b"other %d" % turn} if written else {b"late %d" % turn, before.record, b"other %d" % turn}
        assert after.record in expected
    await store.close()
    await other.close()


async def retried(do):
    while True:
        try:
            return await do()
        except StoreUnavailable:
            await asyncio.sleep(0.01)


async def test_a_flushed_redis_holds_nothing_and_takes_nothing_back(redis, store: SessionStore) -> None:
    await store.create("/tiny", {"a": b"1"}, IDLE)
    before = await store.peek("/tiny", "a")
    assert before is not None
    with redis.client() as client:
        client.flushall()
    assert not await store.replace("/tiny", "a", before.revision, b"2")
    assert not await store.delete("/tiny", "a", before.revision)
    assert await store.fetch("/tiny", "a") is None
    assert await store.names("/tiny", "", 9) == []
    assert await store.create("/tiny", {"a": b"3"}, IDLE) is None


async def test_a_redis_that_went_back_is_not_overwritten_from_its_future(redis, store: SessionStore) -> None:
    """Its old copy has other revisions than what a call has read since; as many writes later, too."""
    await store.create("/tiny", {"a": b"old"}, IDLE)
    old = await store.peek("/tiny", "a")
    with redis.client() as client:
        copy = client.dump("segue:{/tiny}/a")
        assert await store.replace("/tiny", "a", old.revision, b"new")
        new = await store.peek("/tiny", "a")
        client.restore("segue:{/tiny}/a", 0, copy, replace=True)
    assert not await store.replace("/tiny", "a", new.revision, b"newer")
    again = await store.fetch("/tiny", "a")
    assert again.revision == old.revision
    assert await store.replace("/tiny", "a", again.revision, b"another")
    assert not await store.replace("/tiny", "a", new.revision, b"newer")
    assert (await store.fetch("/tiny", "a")).record == b"another"


async def test_a_full_redis_takes_no_new_sessions_and_drops_none(start_redis) -> None:
    with start_redis("--maxmemory", "3mb") as redis:
        store, made = await connected(redis), 0
        with pytest.raises(StoreFull):
            while made < 5000:
                await store.create("/tiny", {f"{made:04}": bytes(2300), f"{made + 1:04}": bytes(2300)}, IDLE)
                made += 2
        assert made > 100
        names = await store.names("/tiny", "", 9999)
        assert len(names) == made
        entry = await store.fetch("/tiny", names[0])
        assert entry is not None
        for name in names[1:]:
            held = await store.peek("/tiny", name)
            assert await store.delete("/tiny", name, held.revision)
        assert await store.replace("/tiny", names[0], entry.revision, bytes(2300))
        await store.create("/tiny", {"more": bytes(2300)}, IDLE)
        await store.close()


async def test_in_a_full_redis_sessions_go_on_unless_they_grow(redis, caplog: pytest.LogCaptureFixture) -> None:
    store = await connected(redis)
    await store.create("/tiny", {f"{i}": bytes(2300) for i in range(20)}, IDLE)
    with redis.client() as client:
        client.config_set("maxmemory", 100_000)  # far less than it holds
        for turn in range(3):
            for i in range(20):
                entry = await store.fetch("/tiny", f"{i}")
                record = bytes([turn]) * (2300 - i)
                client.expire(f"segue:{{/tiny}}/{i}", 100)
                assert await store.replace("/tiny", f"{i}", entry.revision, record)
                after = await store.peek("/tiny", f"{i}")
                assert after.record == record
                assert client.ttl(f"segue:{{/tiny}}/{i}") > 100
                with pytest.raises(StoreFull):
                    await store.replace("/tiny", f"{i}", after.revision, bytes(len(record) + 1))
                assert (await store.peek("/tiny", f"{i}")).revision == after.revision
        assert not await store.replace("/tiny", "0", 1, b"stale")
        with pytest.raises(StoreFull):
            await store.create("/tiny", {"new": b""}, IDLE)
        assert await store.names("/tiny", "", 99) == sorted(f"{i}" for i in range(20))
        assert await store.delete("/tiny", "0", (await store.peek("/tiny", "0")).revision)
        client.config_set("maxmemory", 0)
        assert await store.replace("/tiny", "1", (await store.peek("/tiny", "1")).revision, bytes(5000))
    await store.close()
    assert "cannot be reached" not in caplog.text


async def test_a_redis_that_became_a_replica_takes_no_changes_and_is_looked_up_anew(
    redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name may lead to the new primary by then."""
    store = await connected(redis)
    await store.create("/tiny", {"a": b"1"}, IDLE)
    entry = await store.peek("/tiny", "a")
    with redis.client() as client:
        client.replicaof("127.0.0.1", 1)
        before = client.info("stats")["total_connections_received"]
        for _ in range(20):
            for change in (
                store.replace("/tiny", "a", entry.revision, b"2"),
                store.create("/tiny", {"b": b"1"}, IDLE),
                store.delete("/tiny", "a", entry.revision),
            ):
                with pytest.raises(StoreUnavailable):
                    await change
        assert client.info("stats")["total_connections_received"] > before + 40
        client.replicaof("NO", "ONE")
        assert await store.replace("/tiny", "a", entry.revision, b"2")
    await store.close()
    assert [
        line.getMessage().partition("failed: ")[2][:40] for line in caplog.records if line.levelname == "WARNING"
    ] == ["You can't write against a read only repl"]


async def test_a_right_that_was_taken_away_fails_what_needs_it_in_one_line(
    redis, caplog: pytest.LogCaptureFixture
) -> None:
    store = await connected(redis)
    await store.create("/tiny", {"a": b"1"}, IDLE)
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-expire")
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                await store.fetch("/tiny", "a")
            assert (await store.peek("/tiny", "a")).record == b"1"
        client.execute_command("ACL", "SETUSER", "default", "+expire")
    assert (await store.fetch("/tiny", "a")).record == b"1"
    await store.close()
    assert len([line for line in caplog.records if line.levelname == "WARNING"]) == 1


async def test_what_others_wrote_over_a_session_or_the_names_harms_nobody_else(emptied_redis) -> None:
    store = await connected(emptied_redis)
    with emptied_redis.client() as client:
        await store.create("/tiny", dict.fromkeys(("empty", "list", "number", "short", "sound"), b"record"), IDLE)
        client.set("segue:{/tiny}/empty", b"")
        client.set("segue:{/tiny}/short", b"12345678901")
        client.delete("segue:{/tiny}/list")
        client.lpush("segue:{/tiny}/list", "x")
        client.set("segue:{/tiny}/number", 17)
        for name in ("empty", "list", "number", "short"):
            for entry in (await store.fetch("/tiny", name), await store.peek("/tiny", name)):
                assert entry.record == b""
            assert await store.create("/tiny", {name: b"1"}, IDLE) == name
        assert (await store.fetch("/tiny", "sound")).record == b"record"
        assert len(await store.names("/tiny", "", 9)) == 5

        client.zadd("segue:{/tiny}", {b"\xff\xfe": 0, b"": 0})
        client.set(b"segue:{/tiny}/\xff\xfe", b"1")
        assert len(await store.names("/tiny", "", 9)) == 6

        client.set("segue:{/tiny}", "no set")
        entry = await store.fetch("/tiny", "sound")
        assert await store.replace("/tiny", "sound", entry.revision, b"more")
        with pytest.raises(StoreUnavailable):
            await store.names("/tiny", "", 9)
        with pytest.raises(StoreUnavailable):
            await store.create("/tiny", {"new": b"1"}, IDLE)
        assert await store.peek("/tiny", "new") is None
        assert await store.delete("/tiny", "sound", (await store.peek("/tiny", "sound")).revision)
    await store.close()


async def test_a_session_in_use_stays_listed(emptied_redis) -> None:
    """Redis tells whole seconds of what is left; the names must not go before the sessions."""
    store = await connected(emptied_redis)
    with emptied_redis.client() as client:
        for milliseconds in (1400, 1600, 1999):
            await store.create("/tiny", {f"{milliseconds}": b"1"}, 2)
            client.pexpire("segue:{/tiny}", milliseconds)
            await store.fetch("/tiny", f"{milliseconds}")
            assert client.pttl("segue:{/tiny}") >= client.pttl(f"segue:{{/tiny}}/{milliseconds}") > 1900
        client.delete("segue:{/tiny}")
        await store.fetch("/tiny", "1999")
        assert await store.names("/tiny", "", 5) == ["1999"]
    await store.close()


async def test_many_large_sessions_are_read_at_once(emptied_redis) -> None:
    """As after a break, when all clients come back together; sessions of 2 x 1024 that can go back."""
    store = await connected(emptied_redis)
    names = [f"{number}" for number in range(256)]
    for name in names:
        await store.create("/tiny", {name: bytes(130_000)}, IDLE)
    found = await asyncio.gather(*(store.fetch("/tiny", name) for name in names))
    assert all(entry and len(entry.record) == 130_000 for entry in found)
    await store.close()


async def test_names_of_expired_sessions_do_not_gather(emptied_redis) -> None:
    store = await connected(emptied_redis)
    with emptied_redis.client() as client:
        for i in range(600):
            await store.create("/tiny", {f"{i}": b"1"}, IDLE)
            client.delete(f"segue:{{/tiny}}/{i}")  # as if it had expired
        assert client.zcard("segue:{/tiny}") < 300
        await store.create("/tiny", {"live": b"1"}, 2 * IDLE)
        assert await store.names("/tiny", "", 5) == ["live"]
        assert client.zcard("segue:{/tiny}") == 1
        assert IDLE < client.ttl("segue:{/tiny}") <= 2 * IDLE + 1
        await store.create("/tiny", {"short": b"1"}, 10)
        assert IDLE < client.ttl("segue:{/tiny}") <= 2 * IDLE + 1
        client.expire("segue:{/tiny}", 5)
        await store.fetch("/tiny", "live")
        assert IDLE < client.ttl("segue:{/tiny}") <= 2 * IDLE + 1
    await store.close()
