"""One client that takes all it can get: every place with idle streams, endless texts, or many connections."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.connection import UNLIMITED, Connection, framed
from attacks.harness.finding import Finding
from attacks.harness.messages import GENERATE, SCORE_STREAM, generate, score_stream_start, score_stream_text
from attacks.harness.options import idle_timeout, places
from attacks.harness.servers import Serve

PLACES: Final = 256
_END_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    kind: Literal[
        "idle streams of text",
        "streams fed a byte a second",
        "calls of up to 64 samples of 1,000,000 characters",
        "long texts",
    ]
    calls: int
    connections: int = 1
    tenant: str = ""
    """Of the hog; the bystander belongs to none."""
    seconds: float = 3.0
    idle_seconds: float = 2.0


def hogs(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Take places again and again, as soon as they are free, and read all that comes."""
    whose = f", of the tenant {sizes.tenant}" if sizes.tenant else ""
    attack = f"{sizes.calls} {sizes.kind} for {PLACES} places, {sizes.connections} connections{whose}"
    with serve(*places(PLACES), *idle_timeout(sizes.idle_seconds)) as server, bystander(server) as other:
        quiet = other.quiet(1)
        connections = [Connection(server.port, window=UNLIMITED) for _ in range(sizes.connections)]
        pace = _hog(connections, sizes)
        next(pace)
        other.settled()  # what follows happened when every place was wanted
        deadline = time.monotonic() + sizes.seconds
        while time.monotonic() < deadline:
            next(pace)
        seen = other.settled()
        findings = undisturbed(attack, quiet, seen, gap=1.0)
        if sizes.kind == "idle streams of text":
            held = _held_in_the_end(connections)
            findings.append(Finding(f"{attack}: still open long after the idle limit", held, "streams", 0))
        for connection in connections:
            connection.close()
        return findings


def _hog(connections: list[Connection], sizes: Sizes) -> Iterator[None]:
    """At each step, open what is missing and take what has come."""
    while True:
        for connection in connections:
            missing = sizes.calls // len(connections) - connection.unanswered
            for _ in range(min(missing, connection.room)):
                _BEGIN[sizes.kind](connection, sizes)
            if sizes.kind == "streams fed a byte a second":
                for stream, reply in connection.replies.items():
                    if not reply.ended:
                        connection.send_now(stream, framed(score_stream_text("a")))
            connection.receive(1 / len(connections) if "text" not in sizes.kind else 0.2 / len(connections))
        yield


def _idle(connection: Connection, sizes: Sizes) -> None:
    connection.send(connection.open(SCORE_STREAM, _metadata(sizes)), framed(score_stream_start()))


def _metadata(sizes: Sizes) -> tuple[tuple[str, str], ...]:
    return (("segue-tenant", sizes.tenant),) if sizes.tenant else ()


def _samples(connection: Connection, sizes: Sizes) -> None:
    connection.call(GENERATE, generate(1_000_000, samples=random.choice((1, 8, 64))), _metadata(sizes))


def _long_text(connection: Connection, sizes: Sizes) -> None:
    connection.call(GENERATE, generate(1_000_000), _metadata(sizes))


_BEGIN: Final[dict[str, Callable[[Connection, Sizes], None]]] = {
    "idle streams of text": _idle,
    "streams fed a byte a second": _idle,
    "calls of up to 64 samples of 1,000,000 characters": _samples,
    "long texts": _long_text,
}


def _held_in_the_end(connections: list[Connection]) -> int:
    deadline = time.monotonic() + _END_SECONDS
    while (held := sum(each.unanswered for each in connections)) and time.monotonic() < deadline:
        for connection in connections:
            connection.receive(0.1)
    return held


SMALL: Final = (
    Sizes("idle streams of text", 300),
    Sizes("calls of up to 64 samples of 1,000,000 characters", 64),
    Sizes("long texts", 320, connections=16, tenant="hog"),
)
FULL: Final = (
    Sizes("idle streams of text", 512, seconds=25, idle_seconds=5),
    Sizes("streams fed a byte a second", 512, seconds=25),
    Sizes("calls of up to 64 samples of 1,000,000 characters", 64, seconds=20),
    Sizes("long texts", 640, connections=16, tenant="hog", seconds=20),
    Sizes("idle streams of text", 640, connections=16, tenant="hog", seconds=20),
    Sizes("calls of up to 64 samples of 1,000,000 characters", 160, connections=16, tenant="hog", seconds=20),
)
