"""As much of HTTP/1.1 as scrapes and health checks need: one request without a body, one reply, then the end."""

import http.client
import io
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

MAX_HEAD_BYTES: Final = 8192

END_OF_HEAD: Final = b"\r\n\r\n"
_METHODS: Final = ("GET", "HEAD")
_WORDS: Final = 3
"""Of a request line: method, target, version."""


class RequestRefused(Exception):  # noqa: N818 - the status says what went wrong
    """A request that gets no page."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Page:
    """What a path shows."""

    status: HTTPStatus
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Request:
    """A request for a page."""

    path: str
    """Without a query."""
    accept: str
    """The formats that the client reads."""
    wants_body: bool


def parse_head(head: bytes) -> Request:
    """Parse the first MAX_HEAD_BYTES of a request, up to the empty line. Raises RequestRefused."""
    head, end, _ = head.partition(END_OF_HEAD)
    if not end:
        raise RequestRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    line, _, fields = (head + end).partition(b"\r\n")
    words = line.decode("latin-1").split(" ")
    if len(words) != _WORDS or not words[2].startswith("HTTP/1."):
        raise RequestRefused(HTTPStatus.BAD_REQUEST)
    if words[0] not in _METHODS:
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED)
    try:
        headers = http.client.parse_headers(io.BytesIO(fields))
    except http.client.HTTPException:
        raise RequestRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
    return Request(words[1].partition("?")[0], str(headers.get("Accept", "")), words[0] == "GET")


def error_page(status: HTTPStatus) -> Page:
    """Return a page that says no more than the status."""
    return Page(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}\n".encode())


def reply(page: Page, *, with_body: bool = True) -> bytes:
    """Return the whole reply as it is sent."""
    lines = [
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Connection: close",
        "Cache-Control: no-store",
    ]
    if page.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append(f"Allow: {', '.join(_METHODS)}")
    return "\r\n".join([*lines, "", ""]).encode() + (page.body if with_body else b"")
