"""The port of metrics and health over HTTP, bounded against whoever connects.

It has a few places. A connection has seconds for all it does, and when a place is needed the oldest one of the address
that holds most of them ends. So whoever sends half a request or reads nothing takes neither threads nor files without
end, and a scrape gets through. Pages of metrics are made in one thread of their own, and only so many a second.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Final, cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from segue_server.address import joined_address
from segue_server.errors import StartupError
from segue_server.telemetry.http_message import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    Page,
    Request,
    RequestRefused,
    error_page,
    parse_head,
    reply,
)

PLACES: Final = 16
"""Connections open at once."""
_QUEUE: Final = 256
"""How many wait to be accepted."""
CONNECTION_SECONDS: Final = 5.0
_BETWEEN_PAGES_SECONDS: Final = 0.05

_OPENMETRICS: Final = "application/openmetrics-text"
_FORMATS: Final = (_OPENMETRICS, "")
"""Values of Accept that choose a format: the second one stands for Prometheus' text."""

_log = logging.getLogger(__name__)


class HttpPort:
    """Serves GET and HEAD of /metrics and /health, one request a connection, on the event loop's thread."""

    def __init__(self, metrics: CollectorRegistry, serving: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._serving = serving
        self._connections: dict[_Connection, str] = {}
        """Open ones with their addresses, the oldest first."""
        self._waiting: dict[_Connection, Request] = {}
        """For a page of metrics."""
        self._asked = asyncio.Event()
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._server: asyncio.Server | None = None
        self._answering: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port. Raises StartupError."""
        loop = asyncio.get_running_loop()
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family)
            # A turn of the loop accepts `backlog` connections: not more than there are places, so that each one is read
            # once before others take its place. The queue of the kernel is longer: who finds it full waits a second.
            self._server = await loop.create_server(lambda: _Connection(self), sock=listener, backlog=PLACES)
            listener.listen(_QUEUE)
        except OSError as error:
            raise StartupError(
                f"cannot serve metrics on {joined_address(host, port)}: {error.strerror}; "
                "choose another --metrics-port (0: any free one)"
            ) from error
        self._answering = loop.create_task(self._answer_scrapes())
        return int(listener.getsockname()[1])

    def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        if self._answering is not None:
            self._answering.cancel()
        for connection in list(self._connections):
            connection.abort()
        self._renderer.shutdown(wait=False, cancel_futures=True)

    def opened(self, connection: "_Connection", address: str) -> None:
        """Give the connection a place."""
        if len(self._connections) >= PLACES:
            ((crowded, _),) = Counter(self._connections.values()).most_common(1)
            oldest = next(each for each, its in self._connections.items() if its == crowded)
            del self._connections[oldest]
            oldest.abort()
        self._connections[connection] = address

    def closed(self, connection: "_Connection") -> None:
        """Free the connection's place."""
        self._connections.pop(connection, None)
        self._waiting.pop(connection, None)

    def ask(self, connection: "_Connection", request: Request) -> None:
        """Answer the request, now or as soon as the page is made."""
        if request.path == "/metrics":
            self._waiting[connection] = request
            self._asked.set()
        elif request.path == "/health":
            connection.answer(self._health(), with_body=request.wants_body)
        else:
            connection.answer(error_page(HTTPStatus.NOT_FOUND))

    def _health(self) -> Page:
        serving = self._serving()
        status = HTTPStatus.OK if serving else HTTPStatus.SERVICE_UNAVAILABLE
        return Page(status, "text/plain; charset=utf-8", b"serving\n" if serving else b"not serving\n")

    async def _answer_scrapes(self) -> None:
        """Make one page for all who wait, then pause; each one sees what was counted before it asked."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            waiting, self._waiting = self._waiting, {}
            for accepted in _FORMATS:
                asking = {one: asked for one, asked in waiting.items() if _format(asked) == accepted}
                if asking:
                    page = await self._page(accepted)
                    for connection, request in asking.items():
                        connection.answer(page, with_body=request.wants_body)
            await asyncio.sleep(_BETWEEN_PAGES_SECONDS)

    async def _page(self, accepted: str) -> Page:
        encode, content_type = choose_encoder(accepted)
        try:
            body = await asyncio.get_running_loop().run_in_executor(self._renderer, encode, self._metrics)
        except Exception:  # noqa: BLE001 - whatever a collector raises, later scrapes go on
            _log.exception("cannot collect the metrics")
            return error_page(HTTPStatus.INTERNAL_SERVER_ERROR)
        return Page(HTTPStatus.OK, content_type, body)


def _format(request: Request) -> str:
    """Return one of _FORMATS. Versions and weights that the client names are not looked at: there are two formats."""
    return _OPENMETRICS if _OPENMETRICS in request.accept else ""


class _Connection(asyncio.Protocol):
    """One connection: reads one request, sends one reply, and ends, at the latest when its time is up."""

    def __init__(self, port: HttpPort) -> None:
        self._port = port
        self._head = bytearray()
        self._asked = False
        self._answered = False
        self._client_is_done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = asyncio.get_running_loop().call_later(CONNECTION_SECONDS, self._end)
        peer = transport.get_extra_info("peername")
        self._port.opened(self, str(peer[0]) if peer else "")

    def data_received(self, data: bytes) -> None:
        if self._asked:
            return  # whatever follows the request is read and dropped, so that the reply is not lost in a reset
        self._head += data
        if END_OF_HEAD not in self._head and len(self._head) < MAX_HEAD_BYTES:
            return
        self._asked = True
        try:
            request = parse_head(bytes(self._head[:MAX_HEAD_BYTES]))
        except RequestRefused as refusal:
            self.answer(error_page(refusal.status))
        else:
            self._port.ask(self, request)
        self._head.clear()

    def eof_received(self) -> bool:
        self._client_is_done = True
        return self._asked and not self._answered  # True: the connection stays for the answer

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._deadline.cancel()
        self._port.closed(self)

    def answer(self, page: Page, *, with_body: bool = True) -> None:
        """Send the reply; the connection ends when the client closes it or its time is up."""
        if self._transport.is_closing():
            return
        self._asked = self._answered = True
        self._transport.write(reply(page, with_body=with_body))
        if self._client_is_done:
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection, which the event loop has not seen yet
            self._transport.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def _end(self) -> None:
        if not self._answered:
            self.answer(error_page(HTTPStatus.REQUEST_TIMEOUT))
            self._transport.close()
        else:
            self._transport.abort()
