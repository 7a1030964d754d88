"""Streams that are opened and reset, again and again ("rapid reset")."""

import struct
import time
from dataclasses import dataclass
from typing import Final, Literal

from raw_http2 import DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.connection import Connection, framed
from attacks.harness.finding import Finding
from attacks.harness.frames import Wire, headers_block
from attacks.harness.messages import GENERATE, generate
from attacks.harness.process import Growth
from attacks.harness.servers import Serve, Server

_AT_ONCE: Final = 50
_CANCEL: Final = struct.pack(">I", 8)


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    calls: int
    connections: int = 1
    moment: Literal["after headers", "after request", "after first message"] = "after request"
    quiet_seconds: float = 1.0


def streams_reset(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Open calls and reset each at the same moment of its life; connect again when the server cuts the connection."""
    attack = f"{sizes.calls:,} streams reset {sizes.moment}, {sizes.connections} connections"
    with serve() as server, bystander(server) as other:
        quiet = other.quiet(sizes.quiet_seconds)
        growth = Growth(server.process)
        if sizes.moment == "after first message":
            _reset_while_read(server, sizes)
        else:
            _reset_at_once(server, sizes)
        seen = other.settled()
        return [
            Finding(f"{attack}: memory", growth.peak, "MiB", 64),
            *undisturbed(attack, quiet, seen),
        ]


def _reset_at_once(server: Server, sizes: Sizes) -> None:
    request, headers = framed(generate(100)), headers_block(GENERATE)
    wires = [Wire(server.port) for _ in range(sizes.connections)]
    streams = [1] * len(wires)
    for number in range(sizes.calls // _AT_ONCE):
        at = number % len(wires)
        if not wires[at].open:
            wires[at].close()
            wires[at], streams[at] = Wire(server.port), 1
        out = bytearray()
        for _ in range(_AT_ONCE):
            out += frame(HEADERS, END_HEADERS, streams[at], headers)
            if sizes.moment == "after request":
                out += frame(DATA, END_STREAM, streams[at], request)
            out += frame(RST_STREAM, 0, streams[at], _CANCEL)
            streams[at] += 2
        wires[at].write(bytes(out))
    for wire in wires:
        wire.close()


def _reset_while_read(server: Server, sizes: Sizes) -> None:
    """Reset each stream once it has brought something."""
    request, left = generate(1_000_000), sizes.calls
    connections = [Connection(server.port) for _ in range(sizes.connections)]
    deadline = time.monotonic() + 60
    while left > 0 and time.monotonic() < deadline:
        for at, connection in enumerate(connections):
            if connection.closed:
                connections[at] = Connection(server.port)
                continue
            opened = [connection.call(GENERATE, request) for _ in range(min(_AT_ONCE, connection.room, left))]
            patience = time.monotonic() + 1
            while not all(_begun(connection, stream) for stream in opened) and time.monotonic() < patience:
                connection.receive(0.01)
            for stream in opened:
                connection.reset(stream)
                del connection.replies[stream]
            left -= len(opened)
    for connection in connections:
        connection.close()


def _begun(connection: Connection, stream: int) -> bool:
    reply = connection.replies[stream]
    return connection.closed or reply.ended or bool(reply.size)


SMALL: Final = (Sizes(20_000),)
FULL: Final = (
    Sizes(100_000, quiet_seconds=3),
    Sizes(100_000, moment="after headers"),
    Sizes(100_000, connections=50),
    Sizes(3_000, moment="after first message"),
    Sizes(3_000, connections=20, moment="after first message"),
)
