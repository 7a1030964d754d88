"""What a client does wrong, many times: the log stays short, and holds no traceback."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from attacks.harness.connection import Connection, framed
from attacks.harness.finding import Finding
from attacks.harness.frames import Wire
from attacks.harness.messages import GENERATE, SCORE, SCORE_STREAM, generate, score_stream_start
from attacks.harness.options import stall_timeout
from attacks.harness.servers import Serve, Server

_END_SECONDS: Final = 30.0
"""After the last call has begun."""

_NEWEST: Final = 1
"""grpc.aio holds the newest call of a server until the next one arrives."""


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    calls: int
    """Of each kind."""
    lines: int = 20
    """The most that each kind may add to the log."""


def log_floods(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Do each kind of wrong in turn on one server; count the lines that it adds to the log."""
    findings: list[Finding] = []
    with serve(*stall_timeout(1)) as server:
        for name, do_wrong in _WRONGS.items():
            before = len(server.log_text().splitlines())
            held = do_wrong(server, sizes.calls)
            lines = server.log_text().splitlines()[before:]
            attack = f"{sizes.calls} times: {name}"
            notes = lines[-1][:100] if len(lines) > sizes.lines else ""
            findings.append(Finding(f"{attack}: log", len(lines), "lines", sizes.lines, notes=notes))
            findings.append(Finding(f"{attack}: held long after the stall timeout", held, "calls", _NEWEST))
    return findings


def _unread_texts(server: Server, count: int, window: int = 0) -> int:
    """Not even the first message is read."""
    return _in_turn(server, count, window, lambda connection: connection.call(GENERATE, generate(1000)))


def _unread_texts_with_little_room(server: Server, count: int) -> int:
    return _unread_texts(server, count, window=256)


def _unread_streams_of_text(server: Server, count: int) -> int:
    def begin(connection: Connection) -> int:
        stream = connection.open(SCORE_STREAM)
        connection.send(stream, framed(score_stream_start()))
        return stream

    return _in_turn(server, count, 0, begin)


def _compressed(server: Server, count: int) -> int:
    def begin(connection: Connection) -> int:
        stream = connection.open(SCORE, (("grpc-encoding", "gzip"),))
        connection.send(stream, framed(b"\x1a\x01a", compressed=True), end=True)
        return stream

    return _in_turn(server, count, 65_535, begin)


def _unknown_methods(server: Server, count: int) -> int:
    return _in_turn(server, count, 65_535, lambda connection: connection.call("/segue.v1.ScoringService/None", b""))


def _refused(server: Server, count: int) -> int:
    return _in_turn(server, count, 65_535, lambda connection: connection.call(SCORE, b"\xff" * 10))


def _bad_metadata(server: Server, count: int) -> int:
    metadata = (("segue-tenant", "no/such tenant"),)
    return _in_turn(server, count, 65_535, lambda connection: connection.call(SCORE, b"\x1a\x01a", metadata))


def _cut_off(server: Server, count: int) -> int:
    """Connections end in the middle of a stream."""
    for _ in range(max(1, count // 10)):
        with Connection(server.port) as connection:
            for _ in range(min(10, connection.room)):
                connection.call(GENERATE, generate(100_000))
    time.sleep(1)
    return 0


def _not_http(server: Server, count: int) -> int:
    for _ in range(count):
        wire = Wire(server.port, b"GET / HTTP/1.1\r\nHost: attack\r\n\r\n")
        wire.close()
    return 0


def _in_turn(server: Server, count: int, window: int, begin: Callable[[Connection], int]) -> int:
    """Begin so many calls on one connection, as it lets us; return how many are left in the end."""
    with Connection(server.port, window=window) as connection:
        left, deadline = count, time.monotonic() + _END_SECONDS
        while (left or connection.unanswered > _NEWEST) and not connection.closed and time.monotonic() < deadline:
            for _ in range(min(left, connection.room, 50)):
                begin(connection)
                left, deadline = left - 1, time.monotonic() + _END_SECONDS
            connection.receive(0.05)
        return connection.unanswered


_WRONGS: Final[dict[str, Callable[[Server, int], int]]] = {
    "texts whose first message is not read": _unread_texts,
    "texts that are read for 256 bytes": _unread_texts_with_little_room,
    "streams of text whose first answer is not read": _unread_streams_of_text,
    "compressed requests": _compressed,
    "unknown methods": _unknown_methods,
    "requests that are no message": _refused,
    "tenants that cannot be": _bad_metadata,
    "connections cut off": _cut_off,
    "requests that are not HTTP/2": _not_http,
}

SMALL: Final = (Sizes(60),)
FULL: Final = (Sizes(2000),)
