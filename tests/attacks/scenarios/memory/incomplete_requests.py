"""Requests that never become whole: all but the last byte, a byte a second, or the headers alone."""

import struct
import time
from dataclasses import dataclass
from typing import Final, Literal

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.connection import Connection
from attacks.harness.finding import Finding
from attacks.harness.messages import LARGEST, SCORE, SCORE_STREAM, TOO_LARGE
from attacks.harness.options import arrival_timeout, memory_budget
from attacks.harness.process import Growth
from attacks.harness.servers import Serve

BUDGET: Final = 64
"""MiB that the server may hold for calls."""
_SEND_SECONDS: Final = 60.0
_END_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    requests: int
    connections: int = 2
    part: Literal["all but one byte", "one byte a second", "headers only"] = "all but one byte"
    bytes: int = LARGEST
    """Of each request, as its length prefix says."""
    arrival_seconds: float = 3.0
    """That the server gives a request to arrive."""
    method: str = SCORE


def incomplete_requests(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Begin requests and leave them; wait for the server to give them up."""
    attack = f"{sizes.requests} requests of {sizes.bytes / 1e6:.1f} MB, {sizes.part}, {sizes.connections} connections"
    with serve(*memory_budget(BUDGET), *arrival_timeout(sizes.arrival_seconds)) as server, bystander(server) as other:
        quiet = other.quiet(1)
        growth = Growth(server.process)
        connections = [Connection(server.port) for _ in range(sizes.connections)]
        left = _begin(connections, sizes)
        if sizes.part == "all but one byte":
            _send(left, sizes)
        deadline = time.monotonic() + _END_SECONDS
        while (held := sum(each.unanswered for each in connections)) and time.monotonic() < deadline:
            for connection in connections:
                connection.receive(1 / len(connections))
            if sizes.part == "one byte a second":
                for connection, stream in left:
                    connection.send_now(stream, b"x")
        findings = [
            Finding(f"{attack}: memory, of a budget of {BUDGET} MiB", growth.peak, "MiB", BUDGET + 64),
            Finding(f"{attack}: requests still held long after their time", held, "requests", 0),
            *undisturbed(attack, quiet, other.settled()),
        ]
        for connection in connections:
            connection.close()
        return findings


def _begin(connections: list[Connection], sizes: Sizes) -> dict[tuple[Connection, int], int]:
    """Open the streams with the length prefix; return how many bytes each still lacks."""
    left: dict[tuple[Connection, int], int] = {}
    for number in range(sizes.requests):
        connection = connections[number % len(connections)]
        if connection.room > 0:
            stream = connection.open(sizes.method)
            if sizes.part != "headers only":
                connection.send(stream, struct.pack(">BI", 0, sizes.bytes))
            left[connection, stream] = sizes.bytes
    return left


def _send(left: dict[tuple[Connection, int], int], sizes: Sizes) -> None:
    """Send all but one byte of each request, the streams taking turns, as far as the server lets them."""
    chunk, deadline = b"x" * 2**16, time.monotonic() + min(_SEND_SECONDS, 3 * sizes.arrival_seconds)
    while any(count > 1 for count in left.values()) and time.monotonic() < deadline:
        for (connection, stream), count in left.items():
            left[connection, stream] -= connection.send_now(stream, chunk[: count - 1])
        for connection in {connection for connection, _ in left}:
            connection.receive(0.002)


SMALL: Final = (Sizes(40),)
FULL: Final = (
    Sizes(60, arrival_seconds=20),
    Sizes(60, arrival_seconds=20, bytes=TOO_LARGE),
    Sizes(200, connections=50, arrival_seconds=10),
    Sizes(500, part="one byte a second"),
    Sizes(500, part="headers only"),
    Sizes(100, method=SCORE_STREAM),
)
