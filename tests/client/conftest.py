"""A scripted peer on a real port, and both clients behind one face."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partialmethod
from itertools import pairwise
from typing import Any, NoReturn

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from segue.v1 import (
    common_pb2,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    scoring_pb2,
    scoring_pb2_grpc,
    session_pb2_grpc,
)
from segue_client import AsyncClient, Chunk, Client, Finished, Started

UNIT = 2.0**-24
KNOWN = set("abcdefghijklmnopqrstuvwxyz \n")


def unreachable(*_arguments: Any) -> NoReturn:
    raise AssertionError("no call was expected")


def rich_status(code: grpc.StatusCode, message: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def toy_scores(request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
    """Score by pairs of characters, with all that the contract says about normalization, starts and tickets."""
    before = request.start.ticket.decode()
    policies = scoring_pb2.ScoringPolicies(
        unknown=common_pb2.UNKNOWN_POLICY_REPLACE,
        begin=scoring_pb2.BEGIN_POLICY_NOTHING,
        end=scoring_pb2.END_POLICY_NOTHING,
    )
    scores = [_toy_score(request, before, text) for text in request.texts]
    return scoring_pb2.ScoreResponse(scores=scores, policies=policies)


def _toy_score(request: scoring_pb2.ScoreRequest, before: str, text: str) -> scoring_pb2.TextScore:
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    read = before + text
    units = [-((ord(one) * 7919 + ord(other) * 104_729) % 2**27) for one, other in pairwise(read)]
    return scoring_pb2.TextScore(
        sum_log_probability=sum(units) * UNIT,
        scored_count=len(units),
        unknown_count=sum(character not in KNOWN for character in text),
        log_probabilities=[unit * UNIT for unit in units] if request.log_probabilities else [],
        ticket=read[-1:].encode() if request.return_tickets else b"",
    )


def started(**fields: Any) -> generation_pb2.GenerateResponse:
    fields = {"model": "toy", "version": 1, "seed": 7, "continuation": {"exact": True}, **fields}
    return generation_pb2.GenerateResponse(started=generation_pb2.GenerationStarted(**fields))


def text(characters: str, *, sample: int = 0, **fields: Any) -> generation_pb2.GenerateResponse:
    event = generation_pb2.GeneratedText(text=characters, **fields)
    return generation_pb2.GenerateResponse(text=event, sample=sample)


def finished(*, sample: int = 0, **fields: Any) -> generation_pb2.GenerateResponse:
    event = generation_pb2.GenerationFinished(**{"reason": generation_pb2.FINISH_REASON_LENGTH, **fields})
    return generation_pb2.GenerateResponse(finished=event, sample=sample)


def hello(_request: generation_pb2.GenerateRequest) -> Iterator[generation_pb2.GenerateResponse]:
    yield started()
    yield text("Hel", position=3)
    yield text("lo", position=5)
    yield finished(generated_count=5)


TOY = model_pb2.Model(
    name="toy",
    version=3,
    sha256="ab" * 32,
    architecture="lstm",
    layers=1,
    hidden=8,
    vocabulary=["<unk>", "a", "\n"],
    begin="\n",
    normalization="line-feeds",
    corpus="tiny",
    validation_loss=1.0,
    provider="CPUExecutionProvider",
    reproducible=True,
    live_sequences=2,
    host_class="cd" * 16,
    ticket_bytes=512,
    prefix_cache=model_pb2.PrefixCache(hits=5, misses=6, symbols_saved=70, states=8, bytes=9000),
)


class Broken(Exception):  # noqa: N818 - named after what happened
    """Raised by what a test's peer says, it ends the call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str = "broken", reason: str = "") -> None:
        super().__init__(details)
        infos = [error_details_pb2.ErrorInfo(reason=reason, domain="segue")] if reason else []
        self.status = rich_status(code, details, *infos)


@dataclass
class Peer(
    generation_pb2_grpc.GenerationServiceServicer,
    scoring_pb2_grpc.ScoringServiceServicer,
    model_pb2_grpc.ModelServiceServicer,
    session_pb2_grpc.SessionServiceServicer,
):
    """A server that records what it is asked and answers as the test says."""

    address: str = ""
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    """What came with each request for texts."""
    generate: Callable[[Any], Iterator[Any]] = hello
    score: Callable[[Any], Any] = toy_scores
    score_candidates: Callable[[Any], Any] = unreachable
    score_stream: Callable[[Iterator[Any], Any], Iterator[Any]] = unreachable
    sessions: Callable[[str, Any], Any] = unreachable
    """Answers the rpc of that name; it may raise Broken."""
    models: list[Any] = field(default_factory=lambda: [TOY])
    failure: status_pb2.Status | None = None
    """The status that every call ends with, a generation after all that `generate` yields."""
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a generation is over, for whichever reason."""

    def fail(self, code: grpc.StatusCode, message: str, *details: Message) -> None:
        self.failure = rich_status(code, message, *details)

    def abort(self, code: grpc.StatusCode, message: str) -> NoReturn:
        """End the call that asks for it."""
        raise Broken(code, message)

    def fail_busy(self, seconds: float) -> None:
        info = error_details_pb2.ErrorInfo(reason="SERVER_FULL", domain="segue")
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(seconds * 1e9))
        self.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server is full", info, retry)

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - the name of the rpc
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        context.add_callback(self.left.set)
        try:
            yield from self.generate(request)
        except Broken as broken:
            context.abort_with_status(rpc_status.to_status(broken.status))
        self._maybe_fail(context)

    def Score(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the rpc
        self.requests.append(request)
        self._maybe_fail(context)
        try:
            return self.score(request)
        except Broken as broken:
            context.abort_with_status(rpc_status.to_status(broken.status))

    def ScoreStream(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - the name of the rpc
        self._maybe_fail(context)
        yield from self.score_stream(request, context)

    def ScoreCandidates(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the rpc
        self.requests.append(request)
        self._maybe_fail(context)
        return self.score_candidates(request)

    def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the rpc
        self.requests.append(request)
        self._maybe_fail(context)
        return model_pb2.ListModelsResponse(models=self.models)

    def GetModel(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the rpc
        self.requests.append(request)
        self._maybe_fail(context)
        return model_pb2.GetModelResponse(model=self.models[0])

    def _session(self, rpc: str, request: Any, context: Any) -> Any:
        self.requests.append(request)
        try:
            return self.sessions(rpc, request)
        except Broken as broken:
            context.abort_with_status(rpc_status.to_status(broken.status))

    OpenSession = partialmethod(_session, "OpenSession")
    GetSession = partialmethod(_session, "GetSession")
    ListSessions = partialmethod(_session, "ListSessions")
    ForkSession = partialmethod(_session, "ForkSession")
    RewindSession = partialmethod(_session, "RewindSession")
    CloseSession = partialmethod(_session, "CloseSession")

    def _maybe_fail(self, context: Any) -> None:
        if self.failure:
            context.abort_with_status(rpc_status.to_status(self.failure))


@pytest.fixture(scope="session")
def grpc_server() -> Iterator[tuple[str, list[Peer]]]:
    """One server for all tests, which passes every call on to the peer of the running test."""
    with _switching_server() as address_and_peers:
        yield address_and_peers


@pytest.fixture(scope="session")
def other_grpc_server() -> Iterator[tuple[str, list[Peer]]]:
    """Another one."""
    with _switching_server() as address_and_peers:
        yield address_and_peers


@contextmanager
def _switching_server() -> Iterator[tuple[str, list[Peer]]]:
    current: list[Peer] = []

    class Switch:
        def __getattr__(self, rpc: str) -> Callable[[Any, Any], Any]:
            # gRPC asks for each method once; each call looks for the peer of its own test.
            return lambda request, context: getattr(current[0], rpc)(request, context)  # noqa: PLW0108

    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads, options=[("grpc.max_receive_message_length", 64 * 2**20)])
        switch: Any = Switch()
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(switch, server)
        scoring_pb2_grpc.add_ScoringServiceServicer_to_server(switch, server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(switch, server)
        session_pb2_grpc.add_SessionServiceServicer_to_server(switch, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}", current
        server.stop(0).wait()


@pytest.fixture
def peer(grpc_server: tuple[str, list[Peer]]) -> Peer:
    address, current = grpc_server
    current[:] = [Peer(address)]
    return current[0]


@pytest.fixture
def other_peer(other_grpc_server: tuple[str, list[Peer]]) -> Peer:
    """Return a second peer, at another address."""
    address, current = other_grpc_server
    current[:] = [Peer(address)]
    return current[0]


@pytest.fixture
def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class HeardSamples:
    """What came of several texts at once."""

    chunks: list[tuple[int, Chunk]] = field(default_factory=list)
    started: Started | None = None
    finished: list[tuple[Finished | None, ...]] = field(default_factory=list)
    """As it was after each chunk, and at the end."""


@dataclass
class Heard:
    """What came of a generation."""

    chunks: list[Chunk] = field(default_factory=list)
    started: Started | None = None
    finished: Finished | None = None
    resumed_count: int = 0
    exact: bool = True


class SyncFace:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def hear(self, heard: Heard, prompt: str = "", **fields: Any) -> None:
        def listen() -> None:
            generation = self._client.generate(prompt, **fields)
            heard.started = generation.started
            for chunk in generation:
                heard.chunks.append(chunk)
            heard.finished = generation.finished
            heard.resumed_count, heard.exact = generation.resumed_count, generation.exact

        await asyncio.to_thread(listen)

    async def whole(self, prompt: str = "", **fields: Any) -> str:
        return await asyncio.to_thread(lambda: self._client.generate(prompt, **fields).text())

    async def hear_samples(self, heard: HeardSamples, prompt: str, samples: int, **fields: Any) -> None:
        def listen() -> None:
            with self._client.generate_samples(prompt, samples, **fields) as several:
                heard.started = several.started
                for each in several:
                    heard.chunks.append(each)
                    heard.finished.append(several.finished)
                heard.finished.append(several.finished)

        await asyncio.to_thread(listen)

    async def whole_samples(self, prompt: str, samples: int, **fields: Any) -> list[str]:
        return await asyncio.to_thread(lambda: self._client.generate_samples(prompt, samples, **fields).texts())

    async def leave(self, how: str) -> None:
        await asyncio.to_thread(self._leave, how)

    def _leave(self, how: str) -> None:
        generation = self._client.generate()
        assert next(generation).text == "x"
        self._kept = None if how == "drop" else generation
        if how == "with":
            with generation:
                pass
        elif how == "cancel":
            generation.cancel()
            next(generation)
        elif how == "close":
            self._client.close()

    async def call(self, method: str, *arguments: Any, **fields: Any) -> Any:
        return await asyncio.to_thread(getattr(self._client, method), *arguments, **fields)


class AsyncFace:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def hear(self, heard: Heard, prompt: str = "", **fields: Any) -> None:
        generation = await self._client.generate(prompt, **fields)
        heard.started = generation.started
        async for chunk in generation:
            heard.chunks.append(chunk)
        heard.finished = generation.finished
        heard.resumed_count, heard.exact = generation.resumed_count, generation.exact

    async def whole(self, prompt: str = "", **fields: Any) -> str:
        return await (await self._client.generate(prompt, **fields)).text()

    async def hear_samples(self, heard: HeardSamples, prompt: str, samples: int, **fields: Any) -> None:
        async with await self._client.generate_samples(prompt, samples, **fields) as several:
            heard.started = several.started
            async for each in several:
                heard.chunks.append(each)
                heard.finished.append(several.finished)
            heard.finished.append(several.finished)

    async def whole_samples(self, prompt: str, samples: int, **fields: Any) -> list[str]:
        return await (await self._client.generate_samples(prompt, samples, **fields)).texts()

    async def leave(self, how: str) -> None:
        generation = await self._client.generate()
        assert (await anext(generation)).text == "x"
        self._kept = None if how == "drop" else generation
        if how == "with":
            async with generation:
                pass
        elif how == "cancel":
            generation.cancel()
            await anext(generation)
        elif how == "close":
            await self._client.close()

    async def call(self, method: str, *arguments: Any, **fields: Any) -> Any:
        return await getattr(self._client, method)(*arguments, **fields)


@pytest.fixture(params=["sync", "async"])
async def make_face(
    request: pytest.FixtureRequest,
) -> AsyncIterator[Callable[..., SyncFace | AsyncFace]]:
    """Return what makes either client, with the given arguments."""
    clients: list[Client | AsyncClient] = []

    def make(*arguments: Any, **options: Any) -> SyncFace | AsyncFace:
        if request.param == "sync":
            client = Client(*arguments, **options)
            clients.append(client)
            return SyncFace(client)
        async_client = AsyncClient(*arguments, **options)
        clients.append(async_client)
        return AsyncFace(async_client)

    yield make
    for client in clients:
        if isinstance(client, Client):
            client.close()
        else:
            await client.close()


@pytest.fixture(params=["sync", "async"])
async def face(peer: Peer, request: pytest.FixtureRequest) -> AsyncIterator[SyncFace | AsyncFace]:
    """Either client, connected to the peer."""
    if request.param == "sync":
        with Client(peer.address) as client:
            yield SyncFace(client)
    else:
        async with AsyncClient(peer.address) as async_client:
            yield AsyncFace(async_client)


@dataclass(frozen=True)
class Script:
    """What tests write their peer's part with."""

    started: Callable[..., Any] = started
    text: Callable[..., Any] = text
    finished: Callable[..., Any] = finished
    rich_status: Callable[..., status_pb2.Status] = rich_status
    broken: type[Broken] = Broken
    heard: Callable[[], Heard] = Heard
    heard_samples: Callable[[], HeardSamples] = HeardSamples

    unreachable: Callable[..., NoReturn] = unreachable


@pytest.fixture(scope="session")
def script() -> Script:
    return Script()
