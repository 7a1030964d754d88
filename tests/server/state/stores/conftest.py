"""Each store, with a way to let time pass."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from segue_server.state.clock import LASTING_SECONDS
from segue_server.state.stores import open_store
from segue_server.state.stores.memory import MemoryStore
from segue_server.state.stores.sqlite import SqliteStore
from segue_server.state.stores.store import SessionStore

KINDS = ("memory", "sqlite", "redis")


class Clock:
    """Stands still until it is told not to; no step makes it doubt its time."""

    def __init__(self) -> None:
        self._now = 1_800_000_000.0

    def now(self) -> float:
        return self._now

    def surely_past(self) -> float:
        return self._now - LASTING_SECONDS

    def move(self, seconds: float) -> None:
        self._now += seconds


class RedisClock:
    """Takes from every key's time to live what passes; what has none left is gone when `move` returns."""

    def __init__(self, client) -> None:
        self._client = client

    def now(self) -> float:
        return time.time()

    def move(self, seconds: float) -> None:
        expiring = []
        for key in self._client.scan_iter():
            left = self._client.pttl(key) - int(seconds * 1000)
            self._client.pexpire(key, max(1, left))
            expiring += [key] if left <= 0 else []
        while any(self._client.exists(key) for key in expiring):
            time.sleep(0.001)


@dataclass
class Opened:
    """A store under test, its clock, and how another server opens the same one."""

    store: SessionStore
    clock: Clock | RedisClock
    again: Callable[[], Awaitable[SessionStore]] | None
    """None: nobody else can."""


@pytest.fixture(scope="session")
def shared_redis(start_redis) -> Iterator[object]:
    """A Redis for the tests that leave it in peace."""
    with start_redis() as running:
        yield running


@pytest.fixture
def emptied_redis(shared_redis) -> Iterator[object]:
    """The same, with nothing in it."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture(params=KINDS)
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """Each store, empty."""
    clock = Clock()
    if request.param == "memory":
        yield Opened(MemoryStore(clock=clock), clock, None)
    elif request.param == "sqlite":
        others = list[SqliteStore]()

        async def again() -> SqliteStore:
            others.append(SqliteStore(tmp_path / "sessions", clock=clock))
            await others[-1].open()
            return others[-1]

        yield Opened(await again(), clock, again)
        for store in others:
            await store.close()
    else:
        redis = request.getfixturevalue("emptied_redis")
        stores = list[SessionStore]()

        async def connect() -> SessionStore:
            stores.append(await open_store(f"{redis.url}?timeout=20"))
            return stores[-1]

        with redis.client() as client:
            yield Opened(await connect(), RedisClock(client), connect)
        for store in stores:
            await store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(opened: Opened) -> SessionStore:
    return opened.store
