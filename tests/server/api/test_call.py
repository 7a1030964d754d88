"""A call's request, reply and memory, with gRPC's own client and server in this process."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from segue.v1 import scoring_pb2 as pb
from segue.v1 import scoring_pb2_grpc, session_pb2, session_pb2_grpc
from segue_server.api.calls import call_tasks
from segue_server.api.calls.call import CALL_BYTES, Call, Patience
from segue_server.api.calls.interceptor import CallInterceptor
from segue_server.errors import InvalidRequest, RequestError
from segue_server.limits import MAX_MESSAGE_BYTES, SHORT_METHOD, TEXTS_METHOD
from segue_server.runtime.admission import Admission, Capacity
from segue_server.runtime.backlog import Backlog
from segue_server.runtime.owner import NOBODY, Owner
from segue_server.runtime.shared import Holding

TEXTS = pb.ScoreRequest(texts=["The cat"])
SCORE = "/segue.v1.ScoringService/Score"
LARGE = 2**30


class Texts(scoring_pb2_grpc.ScoringServiceServicer):
    """Waits for `may_answer`; refuses texts that begin with "bad"."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.entered = 0

    async def Score(self, request: pb.ScoreRequest, _: Call) -> pb.ScoreResponse:  # type: ignore[override] # noqa: N802
        self.entered += 1
        if request.texts[0].startswith("bad"):
            raise InvalidRequest("bad")
        await self.may_answer.wait()
        return pb.ScoreResponse(model="x" * 1000)

    async def ScoreStream(self, requests: Any, call: Call) -> None:  # type: ignore[override] # noqa: N802
        async for _ in requests:
            await call.write(pb.ScoreStreamResponse())


class Sessions(session_pb2_grpc.SessionServiceServicer):
    """Knows any session."""

    async def GetSession(self, *_: Any) -> session_pb2.GetSessionResponse:  # type: ignore[override] # noqa: N802
        return session_pb2.GetSessionResponse()


class Serving:
    """A server with these two services."""

    def __init__(self, memory: int) -> None:
        self.backlog = Backlog(lambda: 1000.0)
        self.admission = Admission(Capacity(memory, 100), 2.0)
        self.texts = Texts()

    @asynccontextmanager
    async def channel(self, patience: Patience) -> AsyncIterator[grpc.aio.Channel]:
        call_tasks.install(asyncio.get_running_loop())
        registry: Any = type("Registry", (), {"backlogs": [self.backlog]})
        server = grpc.aio.server(interceptors=[CallInterceptor(registry, self.admission, patience)])
        scoring_pb2_grpc.add_ScoringServiceServicer_to_server(self.texts, server)
        session_pb2_grpc.add_SessionServiceServicer_to_server(Sessions(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
                await settled(self)
        finally:
            await server.stop(0)


async def settled(serving: Serving) -> None:
    """Wait until no call holds anything."""
    async with asyncio.timeout(30):
        while serving.admission.memory.taken or serving.backlog.seconds:
            await asyncio.sleep(0.02)


async def refusal_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value


def details_of(refusal: grpc.aio.AioRpcError) -> dict[str, any_pb2.Any]:
    metadata = dict(refusal.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])  # type: ignore[arg-type]
    return {detail.type_url.rpartition(".")[2]: detail for detail in status.details}


async def test_a_call_holds_its_request_by_its_size_until_it_is_answered() -> None:
    serving = Serving(LARGE)
    serving.texts.may_answer.clear()
    async with serving.channel(Patience()) as channel:
        call = scoring_pb2_grpc.ScoringServiceStub(channel).Score(TEXTS)
        async with asyncio.timeout(30):
            while not serving.texts.entered:
                await asyncio.sleep(0.01)
        assert serving.admission.memory.taken == CALL_BYTES + TEXTS.ByteSize() * TEXTS_METHOD.memory_factor
        assert serving.backlog.seconds > 0, "a call that was let in is expected to need the engine"
        serving.texts.may_answer.set()
        assert (await call).model == "x" * 1000


async def test_a_request_that_does_not_arrive_is_charged_as_the_largest_and_given_up() -> None:
    serving = Serving(LARGE)
    async with serving.channel(Patience(request=1.5)) as channel:
        call: Any = channel.stream_unary(SCORE)()
        peak = 0
        while not call.done():
            peak = max(peak, serving.admission.memory.taken)
            await asyncio.sleep(0.02)
        assert peak == CALL_BYTES + MAX_MESSAGE_BYTES
        refusal = await refusal_of(call)
        assert refusal.code() is grpc.StatusCode.ABORTED
        assert "did not arrive within 1.5 seconds" in str(refusal.details())
    assert not serving.texts.entered


async def test_slow_requests_are_refused_where_the_largest_has_no_room_and_small_ones_are_not() -> None:
    serving = Serving(16 * MAX_MESSAGE_BYTES)  # half of it is for requests
    others = [Holding(serving.admission.memory, Owner(f"{host}:1", "")) for host in (4, 2, 1)]
    for held, amount in zip(others, (4, 2, 1), strict=True):  # of 8; each leaves as much as it has
        held.hold(amount * MAX_MESSAGE_BYTES)
    async with serving.channel(Patience()) as channel:
        refusal = await refusal_of(channel.stream_unary(SCORE)())
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await scoring_pb2_grpc.ScoringServiceStub(channel).Score(TEXTS)
        for held in others:
            held.hold(0)


async def test_a_call_that_would_wait_too_long_is_refused_unread_with_two_hints() -> None:
    serving = Serving(LARGE)
    async with serving.channel(Patience()) as channel:
        serving.backlog.add(NOBODY, 10_000)
        refusal = await refusal_of(channel.stream_unary(SCORE)())  # sends nothing
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        retry = error_details_pb2.RetryInfo()
        assert details_of(refusal)["RetryInfo"].Unpack(retry)
        pushback = dict(refusal.trailing_metadata() or ())["grpc-retry-pushback-ms"]
        assert int(pushback) == retry.retry_delay.ToMilliseconds() > 0
        assert await session_pb2_grpc.SessionServiceStub(channel).GetSession(session_pb2.GetSessionRequest())
        assert await scoring_pb2_grpc.ScoringServiceStub(channel).Score(TEXTS, timeout=60)  # it can wait
        serving.backlog.add(NOBODY, -10_000)


async def test_each_method_has_a_limit_of_its_own_for_messages() -> None:
    serving = Serving(LARGE)
    request = session_pb2.GetSessionRequest(name="n" * SHORT_METHOD.message_bytes)
    async with serving.channel(Patience()) as channel:
        refusal = await refusal_of(session_pb2_grpc.SessionServiceStub(channel).GetSession(request))
        assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "this method takes at most 65,536" in str(refusal.details())
        longer = pb.ScoreRequest(texts=["n" * 2 * SHORT_METHOD.message_bytes])
        assert await scoring_pb2_grpc.ScoringServiceStub(channel).Score(longer)


async def test_a_call_without_a_request_is_told_so() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    serving = Serving(LARGE)
    async with serving.channel(Patience()) as channel:
        refusal = await refusal_of(channel.stream_unary(SCORE)(nothing()))
        assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "without a request" in str(refusal.details())


async def test_no_error_outlives_its_call() -> None:
    serving = Serving(LARGE)
    bad, garbage = pb.ScoreRequest(texts=["bad"]).SerializeToString(), b"\xff" * 10
    async with serving.channel(Patience()) as channel:
        with no_collector():
            for message in (bad, garbage) * 50:
                await refusal_of(channel.unary_unary(SCORE)(message))
                await refusal_of(channel.unary_unary("/segue.v1.ScoringService/ScoreStream")(garbage))
            await settled(serving)
            assert errors_alive() <= 2


@pytest.mark.parametrize(("memory", "code"), [(6, "RESOURCE_EXHAUSTED"), (10_000, "ABORTED")])
async def test_no_error_outlives_a_call_whose_request_is_slow_to_arrive(memory: int, code: str) -> None:
    serving = Serving(memory * MAX_MESSAGE_BYTES)
    other = Holding(serving.admission.memory, Owner("other:1", ""))
    other.hold(serving.admission.memory.total // 2)
    async with serving.channel(Patience(request=0.3)) as channel:
        with no_collector():
            slow = [channel.stream_unary(SCORE)() for _ in range(10)]  # they send nothing
            codes = Counter([(await refusal_of(call)).code().name for call in slow])
            other.hold(0)
            await settled(serving)
            assert codes == {code: 10}
            assert errors_alive() <= 2


@contextmanager
def no_collector() -> Iterator[None]:
    """Have no cycles broken in the block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def errors_alive() -> int:
    return sum(issubclass(type(each), RequestError) for each in gc.get_objects())
