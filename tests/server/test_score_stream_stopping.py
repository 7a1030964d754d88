"""Streams whose server stops: within a piece, and before they have begun."""

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest
from segue.v1 import scoring_pb2 as pb
from segue.v1 import scoring_pb2_grpc
from segue_server.api.score_accumulator import NO_SCORES
from segue_server.api.services import score_texts
from segue_server.api.services.score_stream import ScoreStreamCall
from segue_server.engine.model import Model
from segue_server.engine.sequence import State
from segue_server.errors import Stopping
from segue_server.state.start import StartState


class Output:
    def __init__(self) -> None:
        self.progress: list[pb.ScoreStreamProgress] = []

    async def write(self, response: pb.ScoreStreamResponse) -> None:
        if response.HasField("progress"):
            self.progress.append(response.progress)


@pytest.mark.parametrize("pieces", [["ab\r", "c"], ["ab", "c\r"], ["ab\r", "\r\n"], ["ab\r", "cd\r"], ["ab\r"]])
async def test_what_was_not_read_is_not_counted(
    model: Model, monkeypatch: pytest.MonkeyPatch, pieces: list[str]
) -> None:
    read: list[str] = []

    async def score_one(piece: Any, *_: object) -> tuple[Any, State]:
        if read:
            raise Stopping("the server is stopping")
        read.append(piece.text)
        return NO_SCORES, State.after_first(1, model.state_shape, 0)

    async def requests() -> Any:
        for piece in pieces:
            yield pb.ScoreStreamRequest(text=piece)

    monkeypatch.setattr(score_texts, "score_one", score_one)
    output: Any = Output()
    build: Any = SimpleNamespace(sha256=b"", host_class=b"")
    served: Any = SimpleNamespace(model=model, engine_thread=SimpleNamespace(draining=asyncio.Event()), build=build)
    call = ScoreStreamCall(pb.ScoreStreamStart(), StartState.nothing(build), served, output, lambda _: b"a ticket")
    with pytest.raises(Stopping):
        await call.answer(requests())
    assert read == ["ab"]
    assert output.progress[-1].total.ticket
    assert output.progress[-1].sent_count == 2


async def test_streams_that_do_not_begin_take_places_and_hear_of_the_stop(start_server: Any) -> None:
    with start_server("--max-sequences", "3", "--drain-grace", "1") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            waiting = [stub.ScoreStream() for _ in range(3)]
            for call in waiting:
                await call.wait_for_connection()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                while True:  # until all three have come
                    await stub.Score(pb.ScoreRequest(texts=["a"]))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            server.process.terminate()
            assert [await call.code() for call in waiting] == [grpc.StatusCode.UNAVAILABLE] * 3
            assert all(["server is stopping" in await call.details() for call in waiting])
            assert await asyncio.to_thread(server.process.wait, 30) == 0
    assert "ERROR" not in server.log.read_text()


async def test_a_stream_that_never_begins_is_ended(start_server: Any) -> None:
    with start_server("--stall-timeout", "0.2") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream()
            await call.wait_for_connection()
            assert await call.code() is grpc.StatusCode.ABORTED
            assert "start" in (await call.details())
