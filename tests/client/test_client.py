"""Both clients against a scripted peer."""

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from segue.v1 import alternatives_pb2, common_pb2, generation_pb2
from segue_client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    FinishReason,
    InvalidRequest,
    ModelNotFound,
    SegueError,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
)


async def test_a_generation_brings_its_events_as_dataclasses(peer: Any, face: Any, script: Any) -> None:
    def speak(_request: Any) -> Iterator[Any]:
        yield script.started(seed=2**64 - 1, unknown_count=2)
        yield script.text("a\U0001f600", log_probabilities=[-1.5, -0.25], position=9)
        yield script.finished(
            reason=generation_pb2.FINISH_REASON_STOP, stop="\U0001f600", generated_count=2, ticket=b"sealed"
        )

    peer.generate = speak
    heard = script.heard()
    await face.hear(heard, "abc", log_probabilities=True, return_ticket=True)
    assert (heard.started.model, heard.started.version) == ("toy", 1)
    assert (heard.started.seed, heard.started.unknown_count) == (2**64 - 1, 2)
    [chunk] = heard.chunks
    assert (chunk.text, chunk.log_probabilities, chunk.position) == ("a\U0001f600", (-1.5, -0.25), 9)
    assert heard.finished.reason is FinishReason.STOP
    assert (heard.finished.stop, heard.finished.generated_count) == ("\U0001f600", 2)
    assert heard.finished.ticket == b"sealed"


async def test_every_argument_reaches_the_server(peer: Any, face: Any) -> None:
    await face.whole(
        "Once",
        model="toy",
        version=3,
        ticket=b"t",
        temperature=0.0,
        top_k=5,
        top_p=0.5,
        min_p=0.25,
        biases={"e": -2.5, "\n": 3},
        allowed_characters="abc\n",
        forbidden_characters="b",
        seed=0,
        max_characters=9,
        stop=["\n", "end"],
        log_probabilities=True,
        top_alternatives=4,
        unknown="refuse",
        return_ticket=True,
        ticket_interval=50,
        written_before="x" * 100 + "y" * 127,
        exact=False,
    )
    assert peer.requests == [
        generation_pb2.GenerateRequest(
            model=common_pb2.ModelReference(name="toy", version=3),
            start=common_pb2.Start(ticket=b"t", exact=False),
            prompt="Once",
            sampling=generation_pb2.Sampling(
                temperature=0,
                top_k=5,
                top_p=0.5,
                seed=0,
                min_p=0.25,
                biases=[
                    generation_pb2.CharacterBias(character="e", bias=-2.5),
                    generation_pb2.CharacterBias(character="\n", bias=3),
                ],
                allowed_characters="abc\n",
                forbidden_characters="b",
            ),
            max_characters=9,
            stop=["\n", "end"],
            log_probabilities=True,
            unknown_policy=common_pb2.UNKNOWN_POLICY_REFUSE,
            return_ticket=True,
            samples=1,
            top_alternatives=4,
            ticket_interval=50,
            written_before="y" * 127,
        )
    ]


def _mixed(script: Any) -> Any:
    """Three samples, as a server may mix them; the second ends at once."""

    def speak(_request: Any) -> Iterator[Any]:
        yield script.started(seed=2**64 - 1)
        yield script.text("a", sample=2, position=2)
        yield script.finished(sample=1, generated_count=0, reason=generation_pb2.FINISH_REASON_END)
        yield script.text("b", sample=0)
        yield script.text("c", sample=2)
        yield script.finished(sample=2, generated_count=2, ticket=b"two")
        yield script.text("d", sample=0)
        yield script.finished(sample=0, generated_count=2, ticket=b"none")

    return speak


async def test_samples_come_as_pairs_and_end_each_by_itself(peer: Any, face: Any, script: Any) -> None:
    peer.generate = _mixed(script)
    heard = script.heard_samples()
    await face.hear_samples(heard, "x", 3, temperature=0.5, return_ticket=True)
    assert [(sample, chunk.text) for sample, chunk in heard.chunks] == [(2, "a"), (0, "b"), (2, "c"), (0, "d")]
    assert heard.chunks[0][1].position == 2
    assert heard.started.seed == 2**64 - 1
    assert [[end is not None for end in ends] for ends in heard.finished] == [
        [False, False, False],
        [False, True, False],
        [False, True, False],
        [False, True, True],
        [True, True, True],
    ]
    assert [end.ticket for end in heard.finished[-1]] == [b"none", None, b"two"]
    assert heard.finished[-1][1].reason is FinishReason.END
    [request] = peer.requests
    assert (request.samples, request.prompt, request.sampling.temperature) == (3, "x", 0.5)


async def test_the_texts_of_samples(peer: Any, face: Any, script: Any) -> None:
    peer.generate = _mixed(script)
    assert await face.whole_samples("x", 3) == ["bd", "", "ac"]


async def test_one_sample_is_a_list_of_one(face: Any) -> None:
    assert await face.whole_samples("x", 1) == ["Hello"]


async def test_an_option_that_is_none_is_named(peer: Any, face: Any) -> None:
    with pytest.raises(TypeError, match="temprature"):
        await face.whole_samples("x", 2, temprature=1)
    assert peer.requests == []


async def test_samples_against_the_contract_are_a_fault(peer: Any, face: Any, script: Any) -> None:
    for events in (
        [],
        [script.started(), script.finished()],
        [script.started(), script.finished(), script.finished(sample=0)],
        [script.started(), script.finished(), script.text("x")],
        [script.started(), script.text("x", sample=2)],
        [script.started(), script.finished(sample=2)],
        [script.started(), script.finished(), script.finished(sample=1), script.text("x", sample=1)],
    ):
        peer.generate = lambda _request, events=events: iter(events)
        with pytest.raises(ServerFault):
            await face.whole_samples("", 2)


async def test_leaving_samples_ends_them_on_the_server(peer: Any, script: Any) -> None:
    peer.generate = _endless(peer, script)
    with Client(peer.address) as client, client.generate_samples("", 2) as samples:
        assert next(samples)[1].text == "x"
    assert await asyncio.to_thread(peer.left.wait, 5)
    peer.left.clear()
    async with AsyncClient(peer.address) as async_client, await async_client.generate_samples("", 2) as async_samples:
        assert (await anext(async_samples))[1].text == "x"
    assert await asyncio.to_thread(peer.left.wait, 5)


async def test_a_full_server_refuses_samples_where_they_are_asked_for(peer: Any, face: Any) -> None:
    peer.generate = lambda _request: iter(())
    peer.fail_busy(0.25)
    with pytest.raises(ServerBusy) as caught:
        await face.call("generate_samples", "", 2)
    assert caught.value.retry_after == 0.25


async def test_alternatives_come_with_their_characters(peer: Any, face: Any, script: Any) -> None:
    places = [
        alternatives_pb2.Alternatives(characters="a\U0001f600", log_probabilities=[-0.5, -1.5]),
        alternatives_pb2.Alternatives(characters="b", log_probabilities=[-0.25]),
    ]
    peer.generate = lambda _request: iter(
        [script.started(), script.text("ab", alternatives=places), script.finished(generated_count=2)]
    )
    heard = script.heard()
    await face.hear(heard, top_alternatives=2)
    [chunk] = heard.chunks
    assert chunk.alternatives == ((("a", -0.5), ("\U0001f600", -1.5)), (("b", -0.25),))
    assert chunk.alternatives[0][1].character == "\U0001f600"
    assert chunk.alternatives[0][1].log_probability == -1.5


async def test_what_is_not_one_for_each_character_is_a_fault(peer: Any, face: Any, script: Any) -> None:
    one = alternatives_pb2.Alternatives(characters="a", log_probabilities=[-0.5])
    crooked = alternatives_pb2.Alternatives(characters="ab", log_probabilities=[-0.5])
    for fields in ({"alternatives": [one]}, {"alternatives": [one, crooked]}, {"log_probabilities": [-1.0]}):
        events = [script.started(), script.text("ab", **fields), script.finished()]
        peer.generate = lambda _request, events=events: iter(events)
        with pytest.raises(ServerFault):
            await face.whole()


async def test_text_reads_to_the_end(face: Any) -> None:
    assert await face.whole("Say: ") == "Hello"


@pytest.mark.parametrize("how", ["drop", "with"])
async def test_leaving_a_stream_ends_it_on_the_server(peer: Any, face: Any, script: Any, how: str) -> None:
    peer.generate = _endless(peer, script)
    await face.leave(how)
    assert await asyncio.to_thread(peer.left.wait, 5)


async def test_reading_on_after_cancel_raises_cancelled(peer: Any, face: Any, script: Any) -> None:
    peer.generate = _endless(peer, script)
    with pytest.raises(Cancelled):
        await face.leave("cancel")
    assert await asyncio.to_thread(peer.left.wait, 5)


async def test_closing_the_client_ends_its_streams(peer: Any, face: Any, script: Any) -> None:
    peer.generate = _endless(peer, script)
    await face.leave("close")
    assert await asyncio.to_thread(peer.left.wait, 5)


def _endless(peer: Any, script: Any) -> Any:
    def speak(_request: Any) -> Iterator[Any]:
        yield script.started()
        yield script.text("x")
        peer.left.wait(20)

    return speak


async def test_a_cancelled_task_cancels_its_stream_and_stays_cancelled(peer: Any, script: Any) -> None:
    peer.generate = _endless(peer, script)
    async with AsyncClient(peer.address) as client:
        generation = await client.generate()
        await anext(generation)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(generation), 0.1)
        assert await asyncio.to_thread(peer.left.wait, 5)


async def test_another_task_may_cancel_a_waiting_reader(peer: Any, script: Any) -> None:
    peer.generate = _endless(peer, script)
    async with AsyncClient(peer.address) as client:
        generation = await client.generate()
        await anext(generation)
        asyncio.get_running_loop().call_later(0.1, generation.cancel)
        with pytest.raises(Cancelled):
            await anext(generation)


def test_another_thread_may_cancel_a_waiting_reader(peer: Any, script: Any) -> None:
    peer.generate = _endless(peer, script)
    with Client(peer.address) as client, client.generate() as generation:
        next(generation)
        threading.Timer(0.1, generation.cancel).start()
        with pytest.raises(Cancelled):
            next(generation)


async def test_what_came_before_a_failure_is_delivered(peer: Any, face: Any, script: Any) -> None:
    def speak(_request: Any) -> Iterator[Any]:
        yield script.started()
        for number in range(100):
            yield script.text("x", position=number)

    peer.generate = speak
    peer.fail(grpc.StatusCode.INTERNAL, "the engine stopped")
    heard = script.heard()
    with pytest.raises(ServerFault, match="INTERNAL: the engine stopped"):
        await face.hear(heard)
    assert [chunk.position for chunk in heard.chunks] == list(range(100))
    assert heard.finished is None


async def test_a_slow_reader_gets_everything(peer: Any, script: Any) -> None:
    def speak(_request: Any) -> Iterator[Any]:
        yield script.started()
        for _ in range(50):
            yield script.text("x")
        yield script.finished()

    peer.generate = speak
    async with AsyncClient(peer.address) as client:
        generation = await client.generate()
        await asyncio.sleep(0.3)
        assert await generation.text() == "x" * 50


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.UNAVAILABLE, ServerUnavailable),
        (grpc.StatusCode.UNKNOWN, ServerFault),
    ],
)
async def test_a_refused_call_raises_where_it_is_made(
    peer: Any, face: Any, code: grpc.StatusCode, kind: type[SegueError]
) -> None:
    peer.generate = lambda _request: iter(())
    peer.fail(code, "because of this")
    for method, arguments in (("generate", ()), ("score", ("abc",)), ("models", ()), ("model", ("toy",))):
        with pytest.raises(kind, match="because of this") as caught:
            await face.call(method, *arguments)
        assert isinstance(caught.value.__cause__, grpc.RpcError)


async def test_a_full_server_says_when_to_come_back(peer: Any, face: Any) -> None:
    peer.generate = lambda _request: iter(())
    peer.fail_busy(0.25)
    for method, arguments in (("generate", ()), ("score", ("abc",))):
        with pytest.raises(ServerBusy) as caught:
            await face.call(method, *arguments)
        assert (caught.value.retry_after, caught.value.reason) == (0.25, "SERVER_FULL")


async def test_timeouts(peer: Any, script: Any, face: Any) -> None:
    peer.generate = _endless(peer, script)
    with pytest.raises(DeadlineExceeded):
        await face.whole(timeout=0.2)
    assert await asyncio.to_thread(peer.left.wait, 5)


async def test_a_stream_against_the_contract_is_a_fault(peer: Any, face: Any, script: Any) -> None:
    for events in (
        [],
        [script.text("x")],
        [script.started()],
        [script.started(), script.started()],
        [script.started(), script.finished(), script.text("x")],
        [script.started(), script.finished(reason=generation_pb2.FINISH_REASON_UNSPECIFIED)],
        [generation_pb2.GenerateResponse()],
    ):
        peer.generate = lambda _request, events=events: iter(events)
        with pytest.raises(ServerFault):
            await face.whole()


async def test_models(peer: Any, face: Any) -> None:
    [model] = await face.call("models")
    assert model == await face.call("model", "toy", 3)
    assert peer.requests[-1].model == common_pb2.ModelReference(name="toy", version=3)
    assert (model.name, model.version, model.layers, model.hidden) == ("toy", 3, 1, 8)
    assert model.vocabulary == ("<unk>", "a", "\n")
    assert model.validation_perplexity == math.e
    assert (model.host_class, model.ticket_bytes) == ("cd" * 16, 512)
    assert (model.prefix_cache.hits, model.prefix_cache.misses, model.prefix_cache.symbols_saved) == (5, 6, 70)
    assert (model.prefix_cache.states, model.prefix_cache.bytes) == (8, 9000)


async def test_a_message_beyond_the_size_limit_is_the_callers_fault(peer: Any) -> None:
    with Client(peer.address, max_message_bytes=100) as client, pytest.raises(InvalidRequest, match="raise"):
        client.score("a" * 200)
