"""A client that speaks HTTP/2 itself, so that it can stop in the middle of anything that gRPC's own would finish."""

import select
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Final, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

UNLIMITED: Final = 2**31 - 1
_RECEIVED_AT_ONCE: Final = 2**20


def framed(message: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """Return a message as gRPC sends it: a flag, the length (or the wrong one given), and the message."""
    return struct.pack(">BI", compressed, len(message) if length is None else length) + message


@dataclass
class Reply:
    """What has come back on one stream."""

    size: int = 0
    """Bytes of messages, with their frames."""
    trailers: dict[str, str] = field(default_factory=dict)
    reset: int | None = None
    """The error code, if the server reset the stream."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return bool(self.trailers) or self.reset is not None

    @property
    def status(self) -> int | None:
        """The gRPC status; None: none has come."""
        return int(self.trailers["grpc-status"]) if "grpc-status" in self.trailers else None


class Connection:
    """One connection. It credits nothing of what it receives: a stream gets `window` bytes and no more."""

    def __init__(self, port: int, window: int = 65_535) -> None:
        self.replies: dict[int, Reply] = {}
        self.closed = False
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        codes = h2.settings.SettingCodes
        self._http.local_settings = h2.settings.Settings(
            client=True, initial_values={codes.INITIAL_WINDOW_SIZE: window, codes.ENABLE_PUSH: 0}
        )
        self._http.initiate_connection()
        self._http.increment_flow_control_window(UNLIMITED - 65_535)
        self._flush()
        self.receive(0.3)  # the server's settings, and that it has seen ours

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def room(self) -> int:
        """How many more streams the server lets this connection open now."""
        if self.closed:
            return 0
        return int(self._http.remote_settings.max_concurrent_streams) - self._http.open_outbound_streams

    def open(self, path: str, metadata: tuple[tuple[str, str], ...] = ()) -> int:
        """Send the headers of a call; return its stream."""
        stream = self._http.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "attack")]
        headers += [("te", "trailers"), ("content-type", "application/grpc"), *metadata]
        self._http.send_headers(stream, headers)
        self.replies[stream] = Reply()
        self._flush()
        return stream

    def call(self, path: str, message: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> int:
        """Send a whole request of one message; return its stream."""
        stream = self.open(path, metadata)
        self.send(stream, framed(message), end=True)
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False, patience: float = 10.0) -> int:
        """Send data as far as the server's windows allow, waiting for them up to `patience` s; return what was sent."""
        sent, deadline = 0, time.monotonic() + patience
        while sent < len(data) and self._writable(stream) and time.monotonic() < deadline:
            sent += self.send_now(stream, memoryview(data)[sent:])
            self.receive(0 if self._window(stream) else 0.01)
        if end and sent == len(data) and self._writable(stream):
            self._http.end_stream(stream)
            self._flush()
        return sent

    def send_now(self, stream: int, data: "bytes | memoryview") -> int:
        """Send as much as the windows allow now, at most a few frames; return how much."""
        sent = 0
        while sent < min(len(data), 2**18) and self._writable(stream) and (room := self._window(stream)) > 0:
            part = bytes(data[sent : sent + room])
            self._http.send_data(stream, part)
            sent += len(part)
        self._flush()
        return sent

    def credit(self, stream: int, size: int) -> None:
        """Let the server send `size` bytes more on a stream."""
        if self._writable(stream) or not self.replies[stream].ended:
            try:
                self._http.increment_flow_control_window(size, stream)
            except (h2.exceptions.ProtocolError, KeyError):  # the stream has ended meanwhile
                return
            self._flush()

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        if not self.replies[stream].ended:
            self._http.reset_stream(stream, 8)
            self._flush()

    def receive(self, seconds: float = 0.0) -> None:
        """Take what comes for so long; acknowledge settings and pings."""
        deadline = time.monotonic() + seconds
        while not self.closed and select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                data = self._socket.recv(_RECEIVED_AT_ONCE)
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return
            for event in self._http.receive_data(data):
                self._note(event)
            self._flush()
            if time.monotonic() >= deadline:
                return

    def close(self) -> None:
        """Close the connection without a word."""
        self.closed = True
        self._socket.close()

    @property
    def unanswered(self) -> int:
        """How many calls have not ended; none if the connection was closed."""
        return 0 if self.closed else sum(not reply.ended for reply in self.replies.values())

    def _window(self, stream: int) -> int:
        return min(self._http.local_flow_control_window(stream), self._http.max_outbound_frame_size)

    def _writable(self, stream: int) -> bool:
        return not self.closed and not self.replies[stream].ended

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.closed = True
        reply = self.replies.get(getattr(event, "stream_id", None) or 0)
        if reply is None:
            return
        if isinstance(event, h2.events.DataReceived):
            reply.size += len(event.data)
        elif isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
            headers = {str(key): str(value) for key, value in event.headers}
            if "grpc-status" in headers:
                reply.trailers = headers
        elif isinstance(event, h2.events.StreamReset):
            reply.reset = int(event.error_code or 0)

    def _flush(self) -> None:
        data = self._http.data_to_send()
        if data and not self.closed:
            try:
                self._socket.sendall(data)
            except OSError:
                self.closed = True
