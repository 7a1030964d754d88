"""GenerationService through real gRPC, to a real server process."""

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from segue.v1 import common_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc, scoring_pb2, scoring_pb2_grpc
from segue.v1 import generation_pb2 as pb
from unsealing import unsealed

STREAMS = 64
FOREVER = 1_000_000


def request(prompt: str = "The", count: int = 40, seed: int = 7, **fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt=prompt, max_characters=count, sampling=pb.Sampling(seed=seed), **fields)


def varied_request(number: int) -> pb.GenerateRequest:
    generator = random.Random(number)
    return pb.GenerateRequest(
        prompt="".join(generator.choices("etaoin shrdlu\n", k=generator.randrange(0, 120))),
        sampling=pb.Sampling(
            seed=number, temperature=generator.choice([0, 0.5, 1, 2]), top_k=generator.choice([0, 0, 5])
        ),
        max_characters=generator.randrange(1, 200),
        log_probabilities=True,
        return_ticket=True,
        stop=["ea"] if number % 5 == 0 else [],
    )


def generate(channel: grpc.Channel, asked: pb.GenerateRequest) -> tuple[str, list[float], pb.GenerationFinished]:
    return gather(generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked, timeout=60))


def gather(responses: Iterator[pb.GenerateResponse]) -> tuple[str, list[float], pb.GenerationFinished]:
    started, *texts, finished = responses
    assert started.HasField("started")
    assert finished.HasField("finished")
    text = "".join(part.text.text for part in texts)
    return text, [p for part in texts for p in part.text.log_probabilities], finished.finished


def opened(found: tuple[str, list[float], pb.GenerationFinished]) -> tuple[Any, ...]:
    """What came, with what is in the ticket instead of its bytes."""
    text, log_probabilities, finished = found
    state = unsealed(finished.ticket)
    finished.ticket = b""
    return text, log_probabilities, state, finished


def live_sequences(channel: grpc.Channel) -> int:
    stub = model_pb2_grpc.ModelServiceStub(channel)
    return stub.GetModel(model_pb2.GetModelRequest()).model.live_sequences


def wait_until_idle(channel: grpc.Channel) -> None:
    deadline = time.monotonic() + 10
    while live := live_sequences(channel):
        assert time.monotonic() < deadline, f"{live} sequences are still alive"
        time.sleep(0.01)


def error_details(error: grpc.RpcError) -> list[object]:
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    kinds = {"ErrorInfo": error_details_pb2.ErrorInfo, "RetryInfo": error_details_pb2.RetryInfo}
    return [kinds[detail.TypeName().rsplit(".", 1)[1]].FromString(detail.value) for detail in status.details]


async def test_64_concurrent_streams_return_exactly_what_each_returns_alone(
    channel: grpc.Channel, server_address: str
) -> None:
    alone = [generate(channel, varied_request(number)) for number in range(STREAMS)]
    async with grpc.aio.insecure_channel(server_address) as together:
        stub = generation_pb2_grpc.GenerationServiceStub(together)

        async def one(number: int) -> tuple[str, list[float], pb.GenerationFinished]:
            await asyncio.sleep(random.Random(number).random() / 20)
            return gather(iter([part async for part in stub.Generate(varied_request(number), timeout=60)]))

        concurrent = await asyncio.gather(*map(one, range(STREAMS)))
    assert [*map(opened, concurrent)] == [*map(opened, alone)]
    assert len({text for text, _, _ in alone}) > STREAMS / 2


def test_log_probabilities_are_those_that_scoring_the_text_gives(channel: grpc.Channel) -> None:
    text, scores, _ = generate(channel, request("The cat", 100, log_probabilities=True))
    scoring = scoring_pb2_grpc.ScoringServiceStub(channel)
    asked = scoring_pb2.ScoreRequest(texts=["The cat" + text], log_probabilities=True)
    assert list(scoring.Score(asked).scores[0].log_probabilities)[6:] == scores


def test_a_ticket_continues_the_stream_exactly(channel: grpc.Channel) -> None:
    whole, _, end = generate(channel, request(count=60, return_ticket=True))
    for cut in (1, 16, 17, 59):
        first, _, finished = generate(channel, request(count=cut, return_ticket=True))
        again = pb.GenerateRequest(
            start=common_pb2.Start(ticket=finished.ticket), max_characters=60 - cut, return_ticket=True
        )
        rest, _, finished = generate(channel, again)
        assert first + rest == whole
        assert unsealed(finished.ticket) == unsealed(end.ticket)


def test_a_prompt_may_come_in_parts(channel: grpc.Channel) -> None:
    whole, _, _ = generate(channel, request("The cat was"))
    score = scoring_pb2.ScoreRequest(texts=["The ca"], return_tickets=True)
    ticket = scoring_pb2_grpc.ScoringServiceStub(channel).Score(score).scores[0].ticket
    parts, _, _ = generate(channel, request("t was", start=common_pb2.Start(ticket=ticket)))
    assert parts == whole


def test_an_empty_prompt_is_read_as_the_begin_character(channel: grpc.Channel) -> None:
    assert generate(channel, request("")) == generate(channel, request("\n"))
    assert generate(channel, request("")) != generate(channel, request(" "))


def test_the_server_chooses_a_seed_and_reports_it(channel: grpc.Channel) -> None:
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    responses = list(stub.Generate(pb.GenerateRequest(prompt="The", max_characters=50)))
    seed = responses[0].started.seed
    assert gather(iter(responses))[0] == generate(channel, request("The", 50, seed))[0]
    assert gather(iter(responses))[0] != generate(channel, request("The", 50, seed + 1))[0]


def test_positions_count_every_character(channel: grpc.Channel) -> None:
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    behind = 3
    for response in list(stub.Generate(request("The", 300)))[1:-1]:
        behind += len(response.text.text)
        assert response.text.position == behind
    assert behind == 303


def test_a_stop_string_ends_the_stream_and_is_named(channel: grpc.Channel) -> None:
    text, _, _ = generate(channel, request(count=300))
    stop = text[150:153]
    stopped, _, finished = generate(channel, request(count=300, stop=["never seen", stop]))
    assert stopped == text[: text.index(stop) + 3]
    assert (finished.reason, finished.stop) == (pb.FINISH_REASON_STOP, stop)
    assert finished.generated_count == len(stopped)


def test_greedy_text_does_not_depend_on_the_seed(channel: grpc.Channel) -> None:
    texts = {
        generate(channel, pb.GenerateRequest(prompt="a", sampling=pb.Sampling(temperature=0, seed=seed)))[0]
        for seed in range(3)
    }
    assert len(texts) == 1


def test_unknown_characters_are_counted_or_refused(channel: grpc.Channel) -> None:
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    assert next(stub.Generate(request("T€he £"))).started.unknown_count == 2
    with pytest.raises(grpc.RpcError) as refusal:
        generate(channel, request("T€he £", unknown_policy=common_pb2.UNKNOWN_POLICY_REFUSE))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'€' at position 1" in refusal.value.details()


def test_a_cancelled_stream_frees_its_place(channel: grpc.Channel) -> None:
    wait_until_idle(channel)
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    calls = [stub.Generate(request(count=FOREVER)) for _ in range(8)]
    for call in calls:
        assert next(call).HasField("started")
        assert next(call).text.text
    assert live_sequences(channel) == 8
    for call in calls:
        call.cancel()
    wait_until_idle(channel)


def test_a_deadline_frees_the_place(channel: grpc.Channel) -> None:
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    with pytest.raises(grpc.RpcError) as expiry:
        list(stub.Generate(request(count=FOREVER), timeout=0.3))
    assert expiry.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until_idle(channel)


def test_a_vanished_client_frees_its_place(channel: grpc.Channel, server_address: str) -> None:
    with grpc.insecure_channel(server_address) as doomed:
        stream = generation_pb2_grpc.GenerationServiceStub(doomed).Generate(request(count=FOREVER))
        next(stream)
    wait_until_idle(channel)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sampling": pb.Sampling(temperature=float("nan"))}, "temperature is nan; it must be from 0 to 100"),
        ({"sampling": pb.Sampling(temperature=-0.5)}, "temperature is -0.5"),
        ({"sampling": pb.Sampling(temperature=float("inf"))}, "temperature is inf"),
        ({"sampling": pb.Sampling(top_p=0)}, "top_p is 0; it must be above 0 and at most 1"),
        ({"sampling": pb.Sampling(top_p=float("nan"))}, "top_p is nan"),
        ({"sampling": pb.Sampling(top_p=1.5)}, "top_p is 1.5"),
        ({"max_characters": 1_000_001}, "max_characters: 1,000,001; at most 1,000,000"),
        ({"prompt": "a" * 1_000_001}, "characters of prompt: 1,000,001; at most 1,000,000"),
        ({"stop": [""]}, "stop string '' is empty"),
        ({"stop": ["a", "\ufeff"]}, r"stop string '\ufeff' is empty once normalized"),
        ({"stop": ["a" * 129]}, "characters of a stop string: 129; at most 128"),
        ({"stop": ["a"] * 17}, "number of stop strings: 17; at most 16"),
        ({"start": common_pb2.Start(ticket=b"")}, "the ticket is damaged"),
        ({"start": common_pb2.Start(ticket=b"CLT1" * 99)}, "the ticket is damaged"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_range(
    channel: grpc.Channel, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        list(generation_pb2_grpc.GenerationServiceStub(channel).Generate(pb.GenerateRequest(**fields)))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in refusal.value.details()
    (info,) = error_details(refusal.value)
    assert info.domain == "segue"


def test_an_unknown_model_is_named_beside_those_that_are_loaded(channel: grpc.Channel) -> None:
    for reference, words in (("huge", "model 'huge' is not loaded; loaded: tiny"), ("tiny", "version 9 of model")):
        asked = pb.GenerateRequest(model=common_pb2.ModelReference(name=reference, version=9))
        with pytest.raises(grpc.RpcError) as refusal:
            list(generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked))
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
        assert words in refusal.value.details()
        assert error_details(refusal.value)[0].reason == "UNKNOWN_MODEL"


def test_bytes_that_are_no_request_are_refused_and_not_logged_as_a_failure(channel: grpc.Channel) -> None:
    for method in ("GenerationService/Generate", "ScoringService/Score", "ModelService/GetModel"):
        call = channel.unary_stream(f"/segue.v1.{method}")
        with pytest.raises(grpc.RpcError) as refusal:
            list(call(b"\xff\xff\xff"))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "not a message of this method" in refusal.value.details()


def test_a_compressed_request_is_refused_before_it_is_unpacked(channel: grpc.Channel) -> None:
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refusal:
        list(stub.Generate(request("a" * 100_000), compression=grpc.Compression.Gzip))
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
