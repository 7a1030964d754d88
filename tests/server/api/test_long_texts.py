"""Calls whose texts take seconds to read: refused once their length is known, where too many others are being read."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from segue.v1 import common_pb2, generation_pb2, generation_pb2_grpc, scoring_pb2, scoring_pb2_grpc

MODEL = common_pb2.ModelReference(name="characters")
LONG = "the cat sat on the mat. " * 20_000
SHORT = "the cat"
CONNECTIONS = 8
MOST = 40
"""More than are ever let in: sixteen as long as itself may be before a text."""


def prompt(channel: grpc.Channel, text: str) -> Any:
    """Return a call that reads `text` before anything else."""
    request = generation_pb2.GenerateRequest(model=MODEL, prompt=text, max_characters=10)
    return generation_pb2_grpc.GenerationServiceStub(channel).Generate(request)


def score(channel: grpc.Channel, text: str) -> Iterator[Any]:
    request = scoring_pb2.ScoreRequest(model=MODEL, texts=[text[: len(text) // 2], text[len(text) // 2 :]])
    yield scoring_pb2_grpc.ScoringServiceStub(channel).Score(request)


def rank(channel: grpc.Channel, text: str) -> Iterator[Any]:
    request = scoring_pb2.ScoreCandidatesRequest(model=MODEL, context=text, candidates=[SHORT, "the mat"])
    yield scoring_pb2_grpc.ScoringServiceStub(channel).ScoreCandidates(request)


def refusal(call: Any) -> str:
    """Return the reason for which a call is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        next(call)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return refused.value.details()


def test_too_many_long_texts_are_refused_and_short_ones_are_not(start_server, kinds_folder: Path) -> None:
    with start_server(models=kinds_folder) as server, ExitStack() as stack:
        channels = [connection(server.address, stack) for _ in range(CONNECTIONS + 1)]
        reading, reason = [], ""
        for number in range(MOST):  # each begins elsewhere, so that none is cached
            call = prompt(channels[number % CONNECTIONS], LONG[number:])
            try:
                next(call)  # it has begun to read
            except grpc.RpcError as error:
                reason = error.details()
                break
            reading.append(call)
            stack.callback(call.cancel)
        assert re.match(r"the work before this call takes [0-9.]+ s, and it can wait for", reason)
        assert 12 <= len(reading) <= 18
        for ask in (prompt, score, rank):
            assert refusal(ask(channels[-1], LONG[MOST:])).startswith("the work before this call takes")
            assert next(ask(channels[-1], SHORT))


def connection(address: str, stack: ExitStack) -> grpc.Channel:
    return stack.enter_context(grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]))
