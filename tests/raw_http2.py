"""HTTP/2 by hand, for clients that do what no gRPC library does."""

import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


GREETING = PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0)


def literal_headers(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of headers that leaves no trace in the peer's table, so that equal headers are equal bytes."""
    return b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)


def body_of(message: bytes) -> bytes:
    """A message as gRPC sends it, not compressed."""
    return b"\0" + struct.pack(">I", len(message)) + message


def call(path: bytes, message: bytes, stream: int = 1, *more: tuple[bytes, bytes]) -> bytes:
    """A whole call with one message, as raw bytes; `more`: further headers."""
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"test")]
    fields += [(b"te", b"trailers"), (b"content-type", b"application/grpc"), *more]
    return frame(HEADERS, END_HEADERS, stream, literal_headers(fields)) + frame(
        DATA, END_STREAM, stream, body_of(message)
    )


@contextmanager
def connection(address: str, sent: bytes = b"") -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as opened:
        opened.sendall(sent)
        yield opened


def received(opened: socket.socket, until: int | None = None) -> list[int]:
    """The kinds of the frames that arrive, up to one of kind `until` or the end of the connection."""
    data, kinds = b"", []
    while True:
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            kinds.append(data[3])
            data = data[9 + int.from_bytes(data[:3], "big") :]
        if until in kinds:
            return kinds
        try:
            more = opened.recv(65536)
        except ConnectionResetError:
            return kinds
        if not more:
            return kinds
        data += more


def reset_on_close(opened: socket.socket) -> None:
    """Have the connection end with a reset, as if the client had died."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
