"""Streams whose server stops: within a piece, and before they have begun."""

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest
from segue.v1 import common_pb2, generation_pb2, generation_pb2_grpc, scoring_pb2_grpc
from segue.v1 import scoring_pb2 as pb
from segue_server.api.parted_message import Parts
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

    async def write(self, message: pb.ScoreStreamResponse | Parts) -> None:
        response = pb.ScoreStreamResponse.FromString(b"".join(message)) if isinstance(message, list) else message
        if response.HasField("progress"):
            self.progress.append(response.progress)

    def check_waiting(self, _: float) -> None:
        """Wait for ever."""

    def check_duration(self) -> None:
        """Last for ever."""

    def settle(self) -> None:
        """Expect nothing."""

    def hold(self, _: int) -> None:
        """Hold anything."""

    def drop_message(self) -> None:
        """Hold nothing."""


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
    engine = SimpleNamespace(draining=asyncio.Event())
    served: Any = SimpleNamespace(model=model, engine=engine, reproducible=True, build=build)
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
    with start_server("--request-timeout", "0.2") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream()
            await call.wait_for_connection()
            assert await call.code() is grpc.StatusCode.ABORTED
            assert "did not arrive within 0.2 seconds" in (await call.details())


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        ("--idle-timeout", grpc.StatusCode.ABORTED, "no text arrived for 1 seconds"),
        ("--max-duration", grpc.StatusCode.UNAVAILABLE, "has lasted for 1 seconds"),
    ],
)
async def test_idle_and_long_streams_end_with_a_ticket_that_continues_them(
    start_server: Any, option: str, code: grpc.StatusCode, words: str
) -> None:
    first, second = "The cat sat", " on the mat."
    with start_server(option, "1") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            call = stub.ScoreStream()
            await call.write(pb.ScoreStreamRequest(start=pb.ScoreStreamStart()))
            await call.write(pb.ScoreStreamRequest(text=first))
            totals = []
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                async for response in call:
                    totals.append(response.progress.total)  # noqa: PERF401 - what came before the error is needed
            assert ended.value.code() is code
            assert words in str(ended.value.details())
            rest = await stub.Score(
                pb.ScoreRequest(texts=[second], start=common_pb2.Start(ticket=totals[-1].ticket)), timeout=30
            )
            whole = await stub.Score(pb.ScoreRequest(texts=[first + second]), timeout=30)
    parts = totals[-1].sum_log_probability + rest.scores[0].sum_log_probability
    assert parts == pytest.approx(whole.scores[0].sum_log_probability, abs=1e-9)
    assert totals[-1].scored_count + rest.scores[0].scored_count == whole.scores[0].scored_count


async def test_a_long_text_ends_with_a_ticket_that_continues_it(start_server: Any) -> None:
    def asked(count: int, **start: Any) -> generation_pb2.GenerateRequest:
        sampling = generation_pb2.Sampling(seed=4)
        return generation_pb2.GenerateRequest(prompt="The", max_characters=count, sampling=sampling, **start)

    async def text_of(parts: Any) -> tuple[str, Any]:
        text = ""
        async for part in parts:
            text += part.text.text
        return text, part.finished

    with start_server("--max-duration", "1") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            first, finished = await text_of(stub.Generate(asked(1_000_000)))
            assert finished.reason == generation_pb2.FINISH_REASON_DRAINED
            assert finished.generated_count == len(first) > 0
            more = generation_pb2.GenerateRequest(start=common_pb2.Start(ticket=finished.ticket), max_characters=50)
            rest, _ = await text_of(stub.Generate(more))
    with start_server() as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            whole, _ = await text_of(stub.Generate(asked(len(first) + 50)))
    assert first + rest == whole


async def test_a_prompt_that_is_read_for_several_samples_counts_to_the_duration(start_server: Any) -> None:
    with start_server("--max-duration", "0.2") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            request = generation_pb2.GenerateRequest(prompt="The cat " * 60_000, samples=2, max_characters=1)
            call = generation_pb2_grpc.GenerationServiceStub(channel).Generate(request, timeout=60)
            async for response in call:
                assert response.HasField("started")
                break
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert "has not read the whole text" in (await call.details())
