"""Replicas behind nginx are restarted one after another under 64 streams; no caller notices."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from segue_client import AsyncClient

STREAMS = 64
CLIENTS = 4
ROUNDS = 20 if os.environ.get("SEGUE_TESTS") == "long" else 1
LONGEST = 30_000
PATIENCE = 120.0
REDIS = shutil.which("redis-server")


@contextmanager
def redis(folder: Path, port: int) -> Iterator[str]:
    """Run a Redis server; yield its URL."""
    command = [REDIS, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert any("Ready to accept connections" in line for line in process.stdout)
        yield f"redis://127.0.0.1:{port}?timeout=5"  # of machines that are busy with other things
    finally:
        process.kill()
        process.communicate()


@dataclass
class Replicas:
    """Three servers with the same keys and the same sessions, each with a port of its own."""

    start: Callable[[int], AbstractContextManager[Any]]
    ports: list[int]
    stack: ExitStack = field(default_factory=ExitStack)
    running: dict[int, Any] = field(default_factory=dict)

    async def begin(self, port: int) -> None:
        self.running[port] = await asyncio.to_thread(self.stack.enter_context, self.start(port))

    async def end(self, port: int, number: signal.Signals) -> None:
        process = self.running[port].process
        process.send_signal(number)
        assert await asyncio.to_thread(process.wait, 30) in (0, -signal.SIGKILL)


@dataclass
class Cluster:
    """All of it."""

    proxy: str
    quiet: str
    replicas: Replicas


@pytest.fixture
def replica(start_server: Any, one_kind: Path, keys: Path) -> Callable[[str, int], AbstractContextManager[Any]]:
    """Return what runs a server with the given store of sessions at the given port."""

    def start(sessions: str, port: int) -> AbstractContextManager[Any]:
        options = ("--keys", str(keys), "--sessions", sessions, "--drain-grace", "0.2")
        return start_server(*options, "--port", str(port), models=one_kind)

    return start


@pytest.fixture
async def cluster(request: pytest.FixtureRequest, replica: Any, nginx: Any, tmp_path: Path, free_ports: Any) -> Any:
    """Three replicas behind nginx, and one beside it that nobody restarts."""
    proxy_port, *ports, redis_port = free_ports(5)
    with ExitStack() as stack:
        sessions = f"sqlite:{tmp_path / 'sessions'}"
        if request.param == "redis":
            sessions = stack.enter_context(redis(tmp_path, redis_port))
        proxy = stack.enter_context(nginx([proxy_port, *ports]))
        start = partial(replica, sessions)
        quiet = stack.enter_context(start(0)).address
        replicas = Replicas(start, ports, stack)
        for port in ports:
            await replicas.begin(port)
        yield Cluster(proxy, quiet, replicas)


async def restart_all(replicas: Replicas, watch: Any, number: signal.Signals) -> None:
    """Restart one replica after another, each while text comes."""
    for port in replicas.ports * ROUNDS:
        watch.begin()
        await watch.news.wait()
        await replicas.end(port, number)
        await replicas.begin(port)


@pytest.mark.parametrize(
    ("cluster", "number", "kinds"),
    [
        pytest.param("sqlite", signal.SIGTERM, "texts", id="tickets"),
        pytest.param("sqlite", signal.SIGKILL, "texts", id="tickets-killed"),
        pytest.param(
            "redis",
            signal.SIGTERM,
            "sessions",
            id="sessions",
            marks=pytest.mark.skipif(
                REDIS is None, reason="redis-server is not installed; on Debian: apt-get install redis-server"
            ),
        ),
    ],
    indirect=["cluster"],
)
async def test_no_stream_loses_doubles_or_reorders_a_character(
    cluster: Cluster, number: signal.Signals, kinds: str, errands: Any, report: Callable[[str], None]
) -> None:
    began, watch, texts, characters = time.monotonic(), errands.watch(), 0, 0
    async with AsyncClient(cluster.quiet) as undisturbed:
        quietly = errands.caller(undisturbed, undisturbed, errands.watch())
        expected = await errands.expectations(quietly, STREAMS, LONGEST, kinds)
        clients = [AsyncClient(cluster.proxy, resume_seconds=PATIENCE) for _ in range(CLIENTS)]

        async def stream(stream_number: int) -> None:
            nonlocal texts, characters
            caller = errands.caller(clients[stream_number % CLIENTS], undisturbed, watch)
            errand, heard = expected[stream_number]
            while not restarting.done():
                assert await caller.run(errand) == heard
                texts += len(heard.texts)
                characters += heard.characters

        async with asyncio.TaskGroup() as group:
            restarting = group.create_task(restart_all(cluster.replicas, watch, number))
            for stream_number in range(STREAMS):
                group.create_task(stream(stream_number))
        for client in clients:
            await client.close()
    restarts = ROUNDS * len(cluster.replicas.ports)
    report(
        f"{restarts} replicas behind nginx restarted by {number.name}: {texts:,} {kinds} of {characters:,} characters, "
        f"with {watch.resumptions:,} resumptions, are those of an undisturbed server; {time.monotonic() - began:.0f} s"
    )
    assert watch.resumptions  # on a fast machine most texts in sessions end within the grace
