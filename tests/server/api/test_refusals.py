"""What the server says to requests that cannot work: the status, and one line with field, value and remedy."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from segue.v1 import (
    common_pb2,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    scoring_pb2,
    scoring_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)

MODEL = common_pb2.ModelReference
SAMPLING = generation_pb2.Sampling
IN_SESSION = common_pb2.Start(session=common_pb2.SessionReference(name="refusals"))
BY_TICKET = common_pb2.Start(ticket=b"not a ticket")
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def generate(**fields: object) -> Message:
    return generation_pb2.GenerateRequest(**fields)


def score(**fields: object) -> Message:
    return scoring_pb2.ScoreRequest(**fields)


def sampling(**fields: object) -> Message:
    return generate(sampling=SAMPLING(**fields))


REFUSALS: list[tuple[Message, grpc.StatusCode, tuple[str, ...]]] = [
    (sampling(temperature=-1), INVALID, ("temperature is -1", "from 0 to 100")),
    (sampling(temperature=float("nan")), INVALID, ("temperature is nan", "from 0 to 100")),
    (sampling(top_p=0), INVALID, ("top_p is 0", "above 0 and at most 1")),
    (sampling(min_p=1), INVALID, ("min_p is 1", "at least 0 and below 1")),
    (sampling(allowed_characters="☃"), INVALID, ("allowed_characters", "'☃'", "leave it out")),
    (generate(samples=65), INVALID, ("samples: 65", "at most 64")),
    (generate(samples=2, start=IN_SESSION), INVALID, ("samples is 2", "fork it")),
    (generate(top_alternatives=21), INVALID, ("top_alternatives: 21", "at most 20")),
    (generate(stop=[""]), INVALID, ("stop string ''", "leave it out")),
    (generate(unknown_policy=9), INVALID, ("unknown_policy is 9", "choose one of")),
    (generate(prompt="a☃", unknown_policy="UNKNOWN_POLICY_REFUSE"), INVALID, ("prompt", "'☃' at position 1")),
    (generate(model=MODEL(name="huge")), NOT_FOUND, ("model 'huge'", "loaded: tiny")),
    (generate(model=MODEL(name="tiny", version=9)), NOT_FOUND, ("version 9 of model 'tiny'", "loaded: 1")),
    (generate(start=BY_TICKET), INVALID, ("ticket",)),
    (
        generate(start=common_pb2.Start(session=common_pb2.SessionReference(name="nobody"))),
        NOT_FOUND,
        ("session 'nobody'", "open it, or name another"),
    ),
    (score(), INVALID, ("texts is empty", "send at least one text")),
    (score(texts=["a", "b"], start=IN_SESSION), INVALID, ("2 texts and a session", "one text at a time")),
    (score(texts=["a"], top_alternatives=21), INVALID, ("top_alternatives: 21", "at most 20")),
    (scoring_pb2.ScoreCandidatesRequest(), INVALID, ("candidates is empty", "send at least one")),
    (model_pb2.GetModelRequest(model=MODEL(name="x" * 300)), NOT_FOUND, ("is not loaded", "loaded: tiny")),
    (session_pb2.OpenSessionRequest(name="a b"), INVALID, ("name is 'a b'", "1 to 64 of A-Z a-z 0-9 . _ -")),
    (session_pb2.OpenSessionRequest(rewind_characters=5000), INVALID, ("rewind_characters: 5,000", "at most 4,096")),
    (
        session_pb2.OpenSessionRequest(name="refusals"),
        grpc.StatusCode.ALREADY_EXISTS,
        ("session 'refusals'", "choose another name, or close it first"),
    ),
    (
        session_pb2.RewindSessionRequest(session=IN_SESSION.session, characters=5),
        grpc.StatusCode.OUT_OF_RANGE,
        ("session 'refusals'", "at most 0 characters, not by 5", "rewind_characters, chosen when it is opened, is 0"),
    ),
    (session_pb2.RewindSessionRequest(session=IN_SESSION.session), INVALID, ("characters is 0", "1 or more")),
    (session_pb2.ForkSessionRequest(session=IN_SESSION.session), INVALID, ("names is empty", "send a name for each")),
    (session_pb2.OpenSessionRequest(start=IN_SESSION), INVALID, ("start names a session", "use ForkSession")),
    (
        session_pb2.OpenSessionRequest(name="x" * 70_000),
        INVALID,
        ("bytes; this method takes at most 65,536", "send less"),
    ),
    (health_pb2.HealthCheckRequest(service="nope"), NOT_FOUND, ("service is 'nope'", "segue.v1.GenerationService")),
]

STUBS = {
    "Generate": generation_pb2_grpc.GenerationServiceStub,
    "Score": scoring_pb2_grpc.ScoringServiceStub,
    "ScoreCandidates": scoring_pb2_grpc.ScoringServiceStub,
    "GetModel": model_pb2_grpc.ModelServiceStub,
    "OpenSession": session_pb2_grpc.SessionServiceStub,
    "RewindSession": session_pb2_grpc.SessionServiceStub,
    "ForkSession": session_pb2_grpc.SessionServiceStub,
}


def call(channel: grpc.Channel, request: Message) -> None:
    name = type(request).__name__.removesuffix("Request")
    if name == "HealthCheck":
        health_pb2_grpc.HealthStub(channel).Check(request)
        return
    answer = getattr(STUBS[name](channel), name)(request)
    if name == "Generate":
        list(answer)


@pytest.fixture(scope="module")
def known(server) -> Iterator[grpc.Channel]:
    """A connection to a server with the session `refusals`, which has read something."""
    with grpc.insecure_channel(server.address) as channel:
        call(channel, session_pb2.OpenSessionRequest(name="refusals"))
        call(channel, generate(start=IN_SESSION, prompt="The", max_characters=3))
        yield channel
        session_pb2_grpc.SessionServiceStub(channel).CloseSession(
            session_pb2.CloseSessionRequest(session=IN_SESSION.session)
        )


@pytest.mark.parametrize(
    ("request_", "status", "words"), REFUSALS, ids=[f"{type(each[0]).__name__}: {each[2][0]}" for each in REFUSALS]
)
def test_a_refusal_names_field_value_and_remedy_in_one_line(
    known: grpc.Channel, request_: Message, status: grpc.StatusCode, words: tuple[str, ...]
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        call(known, request_)
    details = refusal.value.details()
    assert refusal.value.code() is status, details
    assert all(word in details for word in words), details
    assert "\n" not in details
    assert len(details) < 400
    if isinstance(request_, health_pb2.HealthCheckRequest):
        return
    packed = dict(refusal.value.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(packed).details[0].Unpack(info)
    assert info.domain == "segue"
    assert info.reason.isupper()
