"""A client before its server is there, and behind a fork: real servers, real processes."""

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
from segue_client import AsyncClient, Client, InvalidRequest, SegueError, ServerUnavailable

CALLS: dict[str, Callable[[Client], object]] = {
    "models": lambda client: client.models(),
    "generate": lambda client: client.generate("The ", max_characters=5).text(),
    "score": lambda client: client.score("hello there"),
    "score_stream": lambda client: list(client.score_stream(["hello ", "there"])),
}
PORT = "--port"


@pytest.mark.parametrize("method", CALLS)
def test_the_first_call_to_a_server_that_is_ready_reaches_it(start_server: Any, free_port: int, method: str) -> None:
    with Client(f"127.0.0.1:{free_port}") as client:
        deadline = time.monotonic() + 1.5  # by then gRPC waits for as long as it ever does
        while time.monotonic() < deadline:
            with pytest.raises(ServerUnavailable):
                CALLS[method](client)
            time.sleep(0.01)
        with start_server(PORT, str(free_port)):
            assert CALLS[method](client)


async def test_the_first_asynchronous_call_reaches_it_too(start_server: Any, free_port: int) -> None:
    async with AsyncClient(f"127.0.0.1:{free_port}") as client:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            with pytest.raises(ServerUnavailable):
                await client.models()
            with pytest.raises(ServerUnavailable):
                await client.generate("The ")
        with start_server(PORT, str(free_port)):
            assert await client.models()
            assert await (await client.generate("The ", max_characters=5)).text()


def forked(target: Callable[[Connection], None]) -> object:
    """Return what `target` sends from a forked process; None if it sends nothing in time."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=target, args=(there,))
    process.start()
    try:
        return here.recv() if here.poll(30) else None
    finally:
        process.kill()
        process.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_uses_the_client_with_connections_of_its_own(server: Any) -> None:
    def call(pipe: Connection) -> None:
        pipe.send([bool(client.models()), *results()])
        client.close()

    def results() -> list[object]:
        text = client.generate("The ", seed=1, max_characters=5).text()
        return [text, client.score("hello there"), [each.total for each in client.score_stream(["hello ", "there"])]]

    with Client(server.address) as client, client.generate("The ", max_characters=50_000) as text:
        next(text)
        assert forked(call) == [True, *results()]
        assert len(next(text).text)
        assert client.models()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_does_not_read_what_another_one_began(server: Any) -> None:
    def read(pipe: Connection) -> None:
        try:
            next(text)
        except SegueError as error:
            pipe.send(error)
        text.cancel()

    with Client(server.address) as client, client.generate("The ", max_characters=50_000) as text:
        next(text)
        error = forked(read)
        assert isinstance(error, InvalidRequest)
        assert str(error) == "the call belongs to the process that began it; begin another one in this process"
        assert len(next(text).text)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_an_asynchronous_client_says_that_it_stays_where_it_was(server: Any) -> None:
    def call(pipe: Connection) -> None:
        asyncio.events._set_running_loop(None)
        try:
            asyncio.new_event_loop().run_until_complete(client.models())
        except SegueError as error:
            pipe.send(str(error))

    async with AsyncClient(server.address) as client:
        await client.models()
        assert 'start processes with multiprocessing\'s "spawn"' in str(forked(call))
