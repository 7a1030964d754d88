"""Small calls with large replies that nobody reads, or only a few bytes a second."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import grpc
from segue.v1 import scoring_pb2, scoring_pb2_grpc, session_pb2, session_pb2_grpc

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.connection import Connection
from attacks.harness.finding import Finding
from attacks.harness.messages import (
    GET_MODEL,
    LIST_SESSIONS,
    SCORE,
    SCORE_CANDIDATES,
    candidates_with_tickets,
    get_model,
    list_sessions,
    score_with_tickets,
)
from attacks.harness.models import other_models
from attacks.harness.options import memory_budget, stall_timeout
from attacks.harness.process import Growth
from attacks.harness.servers import Serve, Server

BUDGET: Final = 128
"""MiB that the server may hold for calls."""

_REQUESTS: Final = {
    SCORE: score_with_tickets,
    SCORE_CANDIDATES: candidates_with_tickets,
    LIST_SESSIONS: list_sessions,
    GET_MODEL: get_model,
}
_OPEN_SECONDS: Final = 60.0
_END_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    calls: int
    method: str = SCORE
    connections: int = 2
    read_a_second: int = 0
    """Bytes of each reply; more than 0: the client reads, slowly."""
    sessions: int = 0
    """That there are to list."""
    more_characters: int = 0
    """In the model's alphabet."""
    stall_seconds: float = 2.0


def unread_replies(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Make calls with no room for the replies; wait for the server to give them up."""
    name = sizes.method.rsplit("/", 1)[1]
    slow = f"read at {sizes.read_a_second} bytes a second" if sizes.read_a_second else "never read"
    attack = f"{sizes.calls:,} replies of {name} {slow}, {sizes.connections} connections"
    options = (*memory_budget(BUDGET), *stall_timeout(sizes.stall_seconds))
    with (
        other_models(64, sizes.more_characters) if sizes.more_characters else nullcontext() as models,
        serve(*options, models=models) as server,
        bystander(server) as other,
    ):
        _open_sessions(server, sizes.sessions)
        quiet = other.quiet(1)
        growth = Growth(server.process)
        connections = [Connection(server.port, window=0) for _ in range(sizes.connections)]
        _call(connections, sizes)
        unanswered = _wait(connections, sizes)
        findings = [
            Finding(f"{attack}: memory, of a budget of {BUDGET} MiB", growth.peak, "MiB", BUDGET + 64),
            Finding(f"{attack}: calls still held long after the stall timeout", unanswered, "calls", 0),
            *undisturbed(attack, quiet, other.settled()),
            Finding(
                f"{attack}: a like call that is read, served afterwards", _served(server), "calls", 1, at_least=True
            ),
        ]
        for connection in connections:
            connection.close()
        return findings


def _call(connections: list[Connection], sizes: Sizes) -> None:
    """Make the calls, as many at once as each connection may; those that were refused make room for the next."""
    request, left = _REQUESTS[sizes.method](), sizes.calls
    deadline = time.monotonic() + _OPEN_SECONDS
    while left > 0 and any(not each.closed for each in connections) and time.monotonic() < deadline:
        waited = True
        for connection in connections:
            if left > 0 and connection.room > 0:
                connection.call(sizes.method, request)
                left, waited = left - 1, False
            connection.receive(0)
        if waited:
            return  # every place of these connections is taken by a reply that nobody reads


def _wait(connections: list[Connection], sizes: Sizes) -> int:
    """Wait until the server has ended every call; return how many it has not."""
    deadline = time.monotonic() + _END_SECONDS
    while (unanswered := sum(each.unanswered for each in connections)) and time.monotonic() < deadline:
        for connection in connections:
            connection.receive(1 / len(connections))
            if sizes.read_a_second:
                for stream, reply in connection.replies.items():
                    if not reply.ended:
                        connection.credit(stream, sizes.read_a_second)
    return unanswered


def _served(server: Server) -> int:
    """Return whether a reply of the same size reaches a client that reads."""
    request = scoring_pb2.ScoreRequest.FromString(score_with_tickets())
    with grpc.insecure_channel(server.address) as channel:
        reply = scoring_pb2_grpc.ScoringServiceStub(channel).Score(request, timeout=60, wait_for_ready=True)
    return int(all(score.ticket for score in reply.scores))


def _open_sessions(server: Server, count: int) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        for number in range(count):
            stub.OpenSession(session_pb2.OpenSessionRequest(name=f"{number:064}"))


SMALL: Final = (Sizes(300),)
FULL: Final = (
    Sizes(1000, stall_seconds=5),
    Sizes(1000, SCORE_CANDIDATES),
    Sizes(1000, LIST_SESSIONS, sessions=1000),
    Sizes(2000, GET_MODEL, more_characters=20_000),
    Sizes(1000, connections=50),
    Sizes(500, read_a_second=3),
    Sizes(1000, connections=50, read_a_second=3),
)
