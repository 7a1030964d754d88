"""HTTP/2 by hand: many frames in one write, right or wrong, faster than a real client makes them."""

import socket
from contextlib import suppress

import hpack
from raw_http2 import PREFACE, SETTINGS, frame


def headers_block(path: str, *extra: tuple[str, str]) -> bytes:
    """Return the compressed headers of a call."""
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "attack")]
    return bytes(hpack.Encoder().encode([*headers, ("te", "trailers"), ("content-type", "application/grpc"), *extra]))


class Wire:
    """A connection on which anything can be written; what comes back is dropped."""

    def __init__(self, port: int, first: bytes = PREFACE + frame(SETTINGS, 0, 0)) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.open = self.write(first)

    def write(self, data: bytes) -> bool:
        """Write all; return whether the server still takes it."""
        try:
            self._socket.sendall(data)
        except OSError:
            self.open = False
            return False
        self.open = True
        self._drop()
        return self.open

    def ended(self, seconds: float) -> bool:
        """Wait so long for the server to close the connection; return whether it did."""
        self._socket.settimeout(seconds)
        with suppress(OSError):
            while self._socket.recv(2**20):
                pass
            self.open = False
        return not self.open

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _drop(self) -> None:
        self._socket.setblocking(False)
        try:
            while data := self._socket.recv(2**20):
                pass
            self.open = bool(data)
        except BlockingIOError:
            pass
        except OSError:
            self.open = False
        self._socket.settimeout(30)
