"""Sessions through both clients: against a real server, and against a peer that loses answers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from segue.v1 import generation_pb2, session_pb2
from segue_client import (
    AsyncClient,
    Client,
    InvalidRequest,
    NotRewindable,
    SessionExists,
    SessionMoved,
    SessionNotFound,
)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def now(value: Any) -> Any:
    """Wait for what the asynchronous client returns."""
    return await value if asyncio.iscoroutine(value) else value


async def text_of(value: Any) -> str:
    generation = await now(value)
    return str(await now(generation.text()))


@pytest.fixture(params=["sync", "async"])
async def client(server_address: str, request: pytest.FixtureRequest) -> AsyncIterator[Client | AsyncClient]:
    """Either client, connected to a real server."""
    if request.param == "sync":
        with Client(server_address, tenant="sync") as sync_client:
            yield sync_client
    else:
        async with AsyncClient(server_address, tenant="async") as async_client:
            yield async_client


@pytest.fixture
async def session(client: Any) -> AsyncIterator[Any]:
    session = await now(client.open_session(seed=5, rewind_characters=300))
    yield session
    try:
        await now(session.refresh())
        await now(session.close())
    except SessionNotFound:
        pass


async def test_a_session_goes_on_where_it_stands(client: Any, session: Any) -> None:
    whole = await text_of(client.generate("The ", seed=5, max_characters=100))
    first = await text_of(session.generate("The ", max_characters=60))
    assert session.position == 64
    assert first + await text_of(session.generate(max_characters=40)) == whole
    assert session.position == 104
    found = await now(client.session(session.name))
    assert (found.position, found.seed, found.model, found.version) == (104, 5, "tiny", 1)
    assert found.expiry > datetime.now(UTC) + timedelta(hours=1)


async def test_scoring_advances_it_too(client: Any, session: Any) -> None:
    score = await now(session.score("The cat sat"))
    assert (score.position, session.position) == (11, 11)
    more = await now(session.score(" on the mat"))
    whole = await now(client.score("The cat sat on the mat"))
    assert (score + more).sum_log_probability == whole.sum_log_probability
    assert session.position == 22


async def test_a_session_can_be_taken_back(session: Any) -> None:
    text = await text_of(session.generate("The ", max_characters=200))
    await now(session.rewind(50))
    assert session.position == 154
    assert session.rewindable_count >= 100
    assert await text_of(session.generate(max_characters=50)) == text[150:]
    await now(session.rewind(50, seed=6))
    assert session.seed == 6
    assert await text_of(session.generate(max_characters=50)) != text[150:]
    with pytest.raises(NotRewindable, match="can go back by at most"):
        await now(session.rewind(5000))
    with pytest.raises(InvalidRequest):
        await now(session.rewind(0))


async def test_forks_stand_where_it_does_and_write_other_texts(client: Any, session: Any) -> None:
    await text_of(session.generate("The ", max_characters=20))
    forks = await now(session.fork(2))
    named = await now(session.fork(["endings.1", "endings.2"]))
    assert [fork.name for fork in named] == ["endings.1", "endings.2"]
    assert {fork.position for fork in [*forks, *named]} == {24}
    texts = [await text_of(each.generate(max_characters=60)) for each in [session, *forks]]
    assert len(set(texts)) == 3
    listed = await now(client.sessions())
    assert {fork.name for fork in [*forks, *named]} | {session.name} <= {each.name for each in listed}
    assert [each.name for each in listed] == sorted(each.name for each in listed)
    with pytest.raises(SessionExists):
        await now(session.fork(["endings.1"]))
    for each in [*forks, *named]:
        await now(each.refresh())
        await now(each.close())
    with pytest.raises(TypeError):
        await now(session.fork("endings.1"))


async def test_a_caller_that_is_behind_is_told(client: Any, session: Any) -> None:
    behind = await now(client.session(session.name))
    await text_of(session.generate("The ", max_characters=20))
    for call in (
        lambda: text_of(behind.generate("x")),
        lambda: now(behind.score("x")),
        lambda: now(behind.fork()),
        lambda: now(behind.rewind(1)),
        lambda: now(behind.close()),
    ):
        with pytest.raises(SessionMoved, match="24"):
            await call()
    await now(behind.refresh())
    assert behind.position == 24
    assert await text_of(behind.generate(max_characters=5))
    assert await text_of(client.generate(session=session.name, max_characters=5)), "by name alone, wherever it stands"


async def test_a_text_that_was_left_does_not_advance_it(session: Any) -> None:
    generation = await now(session.generate("The ", max_characters=100_000))
    generation.cancel()
    assert session.position == 0
    await now(session.refresh())
    assert session.position == 0
    assert await text_of(session.generate("The ", max_characters=10))


async def test_a_closed_session_leaves_its_state(client: Any) -> None:
    session = await now(client.open_session("closing", seed=5))
    assert await now(session.ticket()) is None
    text = await text_of(session.generate("The ", max_characters=20))
    ticket = await now(session.ticket())
    last = await now(session.close())
    whole = await text_of(client.generate("The ", seed=5, max_characters=40))
    for each in (ticket, last):
        assert text + await text_of(client.generate(ticket=each, max_characters=20)) == whole
    for call in (session.refresh, session.close, session.ticket):
        with pytest.raises(SessionNotFound):
            await now(call())
    again = await now(client.open_session("closing", ticket=last))
    assert (again.position, again.seed) == (24, 5)
    assert await now(again.close())


async def test_a_name_is_taken_once(client: Any, session: Any) -> None:
    with pytest.raises(SessionExists, match=session.name):
        await now(client.open_session(session.name))
    with pytest.raises(SessionNotFound):
        await now(client.session("nobody.opened.this"))


async def test_what_is_the_sessions_own_cannot_be_chosen(session: Any) -> None:
    for own in ("model", "version", "session", "ticket"):
        with pytest.raises(TypeError, match=own):
            await now(session.generate("x", **{own: None}))
        with pytest.raises(TypeError, match=own):
            await now(session.score("x", **{own: None}))


def described(name: str, position: int = 0) -> session_pb2.Session:
    return session_pb2.Session(name=name, model="toy", version=1, position=position, expiry=Timestamp(seconds=1))


class LosesAnswers:
    """Does what it is asked and loses the first answer to some rpc; then it finds that it was done."""

    def __init__(self, script: Any, lost: str) -> None:
        self._script = script
        self._lost = lost
        self.names: list[str] = []

    def __call__(self, rpc: str, request: Any) -> Any:
        answer = getattr(self, rpc)(request)
        if rpc == self._lost:
            self._lost = ""
            raise self._script.broken(UNAVAILABLE, "Stream removed (Socket closed)")
        return answer

    def _make(self, names: list[str]) -> None:
        if set(names) & set(self.names):
            raise self._script.broken(grpc.StatusCode.ALREADY_EXISTS, "taken", "SESSION_EXISTS")
        self.names += names

    def OpenSession(self, request: Any) -> Any:  # noqa: N802 - the name of the rpc
        self._make([request.name])
        return session_pb2.OpenSessionResponse(session=described(request.name))

    def ForkSession(self, request: Any) -> Any:  # noqa: N802 - the name of the rpc
        self._make(list(request.names))
        return session_pb2.ForkSessionResponse(sessions=map(described, request.names))

    def GetSession(self, request: Any) -> Any:  # noqa: N802 - the name of the rpc
        if request.name not in self.names:
            raise self._script.broken(grpc.StatusCode.NOT_FOUND, "gone", "UNKNOWN_SESSION")
        ticket = b"last" if request.return_ticket else b""
        return session_pb2.GetSessionResponse(session=described(request.name), ticket=ticket)

    def CloseSession(self, request: Any) -> Any:  # noqa: N802 - the name of the rpc
        if request.session.name not in self.names:
            raise self._script.broken(grpc.StatusCode.NOT_FOUND, "gone", "UNKNOWN_SESSION")
        self.names.remove(request.session.name)
        return session_pb2.CloseSessionResponse(ticket=b"last")


@pytest.mark.parametrize("lost", ["OpenSession", "ForkSession", "GetSession", "CloseSession"])
async def test_a_lost_answer_loses_no_session_and_makes_none_twice(
    peer: Any, make_face: Any, script: Any, lost: str
) -> None:
    peer.sessions = sessions = LosesAnswers(script, lost)
    session = await make_face(peer.address).call("open_session")
    forks = await now(session.fork(2))
    assert sorted([session.name, *(fork.name for fork in forks)]) == sorted(sessions.names)
    assert len(sessions.names) == 3
    assert await now(session.close()) == b"last"
    assert len(sessions.names) == 2


@pytest.mark.parametrize("lost", ["OpenSession", "ForkSession"])
async def test_a_name_that_was_chosen_may_be_somebody_elses(peer: Any, make_face: Any, script: Any, lost: str) -> None:
    peer.sessions = LosesAnswers(script, lost)

    async def make() -> None:
        session = await make_face(peer.address).call("open_session", "mine")
        await now(session.fork(["other"]))

    with pytest.raises(SessionExists):
        await make()


async def test_only_a_text_that_ended_advances_the_session(peer: Any, make_face: Any, script: Any) -> None:
    """One that a stopping server cut short can be repeated as a whole."""
    peer.sessions = lambda _rpc, request: session_pb2.OpenSessionResponse(session=described(request.name, 7))
    session = await make_face(peer.address, resume=False).call("open_session", "mine")
    for reason, position in ((generation_pb2.FINISH_REASON_DRAINED, 7), (generation_pb2.FINISH_REASON_LENGTH, 12)):
        peer.generate = lambda _request, reason=reason: iter(
            [script.started(), script.finished(reason=reason, position=12, ticket=b"t")]
        )
        assert await text_of(session.generate()) == ""
        assert session.position == position
    references = [request.start.session for request in peer.requests[1:]]
    assert [reference.position for reference in references] == [7, 7]
    assert references[0].request_key != references[1].request_key


async def test_all_pages_are_followed(peer: Any, make_face: Any) -> None:
    def answer(_rpc: str, request: Any) -> Any:
        page = int(request.page_token or 0)
        following = str(page + 1) if page < 2 else ""
        return session_pb2.ListSessionsResponse(sessions=[described(f"s{page}")], next_page_token=following)

    peer.sessions = answer
    found = await make_face(peer.address).call("sessions", model="toy")
    assert [session.name for session in found] == ["s0", "s1", "s2"]
    assert [(request.page_size, request.model.name) for request in peer.requests] == [(1000, "toy")] * 3


async def test_every_argument_reaches_the_server(peer: Any, make_face: Any) -> None:
    peer.sessions = lambda _rpc, request: session_pb2.OpenSessionResponse(session=described(request.name))
    await make_face(peer.address).call(
        "open_session",
        "mine",
        ticket=b"t",
        exact=False,
        seed=0,
        idle_seconds=60,
        rewind_characters=70,
        model="toy",
        version=2,
    )
    [request] = peer.requests
    expected = session_pb2.OpenSessionRequest(name="mine", seed=0, idle_seconds=60, rewind_characters=70)
    expected.model.name, expected.model.version = "toy", 2
    expected.start.ticket, expected.start.exact = b"t", False
    assert request == expected
