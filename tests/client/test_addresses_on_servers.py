"""Several addresses: full, stopped, lost and idle servers, which are real processes."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from segue_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    Generation,
    ServerBusy,
    ServerUnavailable,
    SessionNotFound,
)
from segue_client.transport import channel


@pytest.fixture(scope="module")
def small(start_server: Any) -> Iterator[Any]:
    """A server with one place."""
    with start_server("--max-sequences", "1") as running:
        yield running


@pytest.fixture(scope="module")
def other_small(start_server: Any) -> Iterator[Any]:
    with start_server("--max-sequences", "1") as running:
        yield running


@contextmanager
def filled(*servers: Any) -> Iterator[None]:
    """Have a text take the only place of each."""
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(endless(stack.enter_context(Client(server.address))))
        yield


def endless(client: Client) -> Generation:
    """Begin a text that does not end, as soon as the one of the test before has left its place."""
    while True:
        try:
            return client.generate("The ", max_characters=1_000_000)
        except ServerBusy:
            time.sleep(0.05)


CALLS: dict[str, Callable[[Client], object]] = {
    "generate": lambda client: client.generate("The ", max_characters=5).text(),
    "generate_samples": lambda client: client.generate_samples("The ", 1, max_characters=5).texts(),
    "score": lambda client: client.score("hello there"),
    "score_each": lambda client: list(client.score_each(["hello", "there"])),
    "score_stream": lambda client: list(client.score_stream(["hello ", "there"])),
    "score_candidates": lambda client: client.score_candidates("hello ", ["there", "you"]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_full_server_is_left_for_an_idle_one(
    small: Any, server_address: str, call: Callable[[Client], object]
) -> None:
    with filled(small), Client([small.address, server_address]) as client:
        assert call(client)
        assert call(client)


async def test_so_does_the_asynchronous_client(small: Any, server_address: str) -> None:
    with filled(small):
        async with AsyncClient([small.address, server_address]) as client:
            assert await client.score("hello there")
            assert await (await client.generate("The ", max_characters=5)).text()


def test_where_all_are_full_each_is_tried_once_and_named(small: Any, other_small: Any) -> None:
    with filled(small, other_small), Client([small.address, other_small.address]) as client:
        with pytest.raises(ServerBusy) as caught:
            client.score("hello")
        assert caught.value.retry_after
        for server in (small, other_small):
            assert f"{server.address} (" in str(caught.value)
        with pytest.raises(ServerBusy, match="places"), Client(small.address) as alone:
            alone.score("hello")


def test_what_has_begun_waits_for_a_place(small: Any, other_small: Any) -> None:
    """Calls after the first of many wait for a place: here all that the server has is taken by their own kind."""
    texts = ["hello there" * 200] * 12
    with Client([small.address, other_small.address]) as client:
        assert len(set(client.score_many(texts, jobs=8))) == 1


def test_a_server_that_hangs_before_the_first_call_is_left(
    start_server: Any, server_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_CONNECTING_MS", 500)
    with start_server() as hanging, Client([hanging.address, server_address], timeout=60) as client:
        hanging.process.send_signal(signal.SIGSTOP)
        try:
            assert client.score("hello")
        finally:
            hanging.process.send_signal(signal.SIGCONT)


def test_other_calls_go_past_one_that_hangs(start_server: Any, server_address: str) -> None:
    with (
        start_server() as hanging,
        Client([hanging.address, server_address]) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        client.score("hello")
        client.score("hello")  # now there are connections to both, and the next call is for the first again
        hanging.process.send_signal(signal.SIGSTOP)
        try:
            stuck = thread.submit(client.score, "hello", timeout=5)
            while not stuck.running():
                pass
            assert all(client.score("hello", timeout=60) for _ in range(8))
            with pytest.raises(DeadlineExceeded):
                stuck.result()
        finally:
            hanging.process.send_signal(signal.SIGCONT)


def test_a_lost_text_says_where_it_broke_off_and_names_all_addresses(start_server: Any) -> None:
    with start_server() as one, start_server() as other:
        addresses = [one.address, other.address]
        with Client(addresses, resume_seconds=0.5) as client:
            generation, heard = client.generate("The ", max_characters=1_000_000), 0
            with pytest.raises(ServerUnavailable) as caught:
                for chunk in generation:
                    heard += len(chunk.text)
                    for server in (one, other):
                        server.process.kill()
            assert str(caught.value).startswith(f"the text broke off after {heard:,} characters: no server ")
            assert all(f"{address} (" in str(caught.value) for address in addresses)


@pytest.fixture(scope="module")
def apart(start_server: Any) -> Iterator[list[Any]]:
    """Two servers that do not share their sessions."""
    with (
        start_server("--sessions", "memory:", "--max-sequences", "1") as one,
        start_server("--sessions", "memory:") as other,
    ):
        yield [one, other]


def test_calls_in_a_session_stay_where_it_is(apart: list[Any]) -> None:
    addresses = [server.address for server in apart]
    with Client(addresses) as client:
        session = client.open_session("stays")
        for _ in range(3):
            client.score("hello")  # these take turns
            client.score("hello")
            client.score("hello")
            session.generate("The ", max_characters=5).text()
            session.score("hello")
        assert [each.name for each in client.sessions()] == ["stays"]
    with Client(addresses) as another:
        assert another.session("stays").position == session.position
        assert list(another.score_stream(["hello"], session="stays"))
        assert another.session("stays").position == session.position + len("hello")
        assert another.session("stays").close()


def test_a_session_is_looked_for_at_each_address(apart: list[Any]) -> None:
    one, other = apart
    with Client(other.address) as client:
        opened = client.open_session("elsewhere")
    with Client([one.address, other.address]) as client:
        found = client.session("elsewhere")
        assert found.generate("The ", max_characters=5).text()
        found.close()
        with pytest.raises(SessionNotFound, match=r"^there is no session 'elsewhere'"):
            client.session(opened.name)


def test_a_session_on_a_full_server_is_not_taken_for_lost(apart: list[Any]) -> None:
    one, other = apart
    with Client([one.address, other.address]) as client:
        session = client.open_session("busy")
        with filled(one), pytest.raises(ServerBusy, match="no session 'busy'"):
            session.generate("The ", max_characters=5)
        client.session("busy").close()
