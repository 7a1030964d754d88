"""A gRPC client that costs a tenth of a real one, so that a load generator measures the server and not itself.

Only what a load needs: unary requests, and of the answers their times, their number and the status.
"""

import asyncio
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import hpack
from raw_http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    body_of,
    frame,
    literal_headers,
)

_WIDE: Final = 2**31 - 1
_TABLE_SIZE, _MOST_STREAMS, _WINDOW = 1, 3, 4
_CREDIT: Final = 2**20
_PADDED: Final = 8


@dataclass(eq=False)
class Answer:
    """What came back from one call."""

    began: float
    ended: asyncio.Future[None]
    messages: list[float] = field(default_factory=list)
    """When each began to arrive."""
    status: str = ""
    """gRPC's number, or what went wrong."""
    trailers: dict[str, str | bytes] = field(default_factory=dict)
    unread: int = 0
    """Bytes of the message that is arriving."""
    prefix: bytes = b""


class LeanClient(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._ready = asyncio.get_running_loop().create_future()
        self._answers: dict[int, Answer] = {}
        self._waiting: deque[tuple[bytes, bytes, Answer]] = deque()
        self._received = b""
        self._next = 1
        self._most = 100
        self._window = 65_535
        self._stream_window = 65_535
        self._uncredited = 0

    @classmethod
    async def connect(cls, address: str) -> "LeanClient":
        """Return a client that is connected to HOST:PORT."""
        host, port = address.rsplit(":", 1)
        _, client = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        await client._ready
        return client

    async def call(self, path: str, message: bytes, deadline: float | None = None) -> Answer:
        """Make one call and wait for its end; raises TimeoutError after `deadline` seconds."""
        answer = Answer(time.monotonic(), asyncio.get_running_loop().create_future())
        block = _headers(path, "" if deadline is None else f"{round(deadline * 1e3)}m")
        self._waiting.append((block, body_of(message), answer))
        self._send()
        async with asyncio.timeout(None if deadline is None else deadline + 5):
            await answer.ended
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Without a table of headers, equal blocks of headers are equal bytes.
        settings = b"".join(struct.pack(">HI", *each) for each in ((_TABLE_SIZE, 0), (2, 0), (_WINDOW, _WIDE)))
        credit = struct.pack(">I", _WIDE - 65_535)
        transport.write(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, credit))

    def connection_lost(self, exc: Exception | None) -> None:
        for answer in [*self._answers.values(), *(answer for *_, answer in self._waiting)]:
            self._end(answer, f"connection lost {exc or ''}")
        self._answers.clear()
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        self._received += data
        at, received = 0, self._received
        while at + 9 <= len(received):
            length = int.from_bytes(received[at : at + 3], "big")
            if at + 9 + length > len(received):
                break
            stream = int.from_bytes(received[at + 5 : at + 9], "big")
            self._take(received[at + 3], received[at + 4], stream, received[at + 9 : at + 9 + length])
            at += 9 + length
        self._received = received[at:]
        self._send()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._take_data(stream, payload)
        elif kind == HEADERS and flags & END_STREAM:
            assert not flags & _PADDED
            if (answer := self._answers.pop(stream, None)) is not None:
                answer.trailers = _decoded(payload)
                self._end(answer, str(answer.trailers.get("grpc-status", "none")))
        elif kind == RST_STREAM:
            if (answer := self._answers.pop(stream, None)) is not None:
                self._end(answer, f"reset {int.from_bytes(payload, 'big')}")
        elif kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self._transport.close()

    def _take_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            name, value = struct.unpack_from(">HI", payload, at)
            if name == _MOST_STREAMS:
                self._most = value
            elif name == _WINDOW:
                self._stream_window = value
        self._transport.write(frame(SETTINGS, ACK, 0))
        if not self._ready.done():
            self._ready.set_result(None)

    def _take_data(self, stream: int, payload: bytes) -> None:
        self._uncredited += len(payload)
        if self._uncredited >= _CREDIT:
            self._transport.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._uncredited)))
            self._uncredited = 0
        if (answer := self._answers.get(stream)) is None:
            return
        at = 0
        while at < len(payload):
            if answer.unread:
                step = min(answer.unread, len(payload) - at)
                answer.unread -= step
                at += step
                continue
            answer.prefix += payload[at : at + 5 - len(answer.prefix)]
            at += 5 if len(answer.prefix) == 5 else len(payload)
            if len(answer.prefix) == 5:
                answer.unread = int.from_bytes(answer.prefix[1:], "big")
                answer.prefix = b""
                answer.messages.append(time.monotonic())

    def _send(self) -> None:
        """Send the calls that wait, as far as the server's limits allow. A request must fit into its windows."""
        out = []
        while self._waiting and len(self._answers) < self._most and len(self._waiting[0][1]) <= self._window:
            block, body, answer = self._waiting.popleft()
            if answer.ended.done():
                continue
            assert len(body) <= self._stream_window
            self._window -= len(body)
            self._answers[self._next] = answer
            out.append(frame(HEADERS, END_HEADERS, self._next, block))
            for at in range(0, len(body), 16_384):
                last = END_STREAM if at + 16_384 >= len(body) else 0
                out.append(frame(DATA, last, self._next, body[at : at + 16_384]))
            self._next += 2
        if out:
            self._transport.write(b"".join(out))

    def _end(self, answer: Answer, status: str) -> None:
        answer.status = status
        if not answer.ended.done():
            answer.ended.set_result(None)


@lru_cache
def _headers(path: str, timeout: str) -> bytes:
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"load"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *([(b"grpc-timeout", timeout.encode())] if timeout else []),
    ]
    return literal_headers(headers)


@lru_cache(maxsize=4096)
def _decoded(block: bytes) -> dict[str, str | bytes]:
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 4096
    return {name.decode(): value.decode("latin-1") for name, value in decoder.decode(block, raw=True)}
