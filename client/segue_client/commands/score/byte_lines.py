"""Lines as the bytes that were read, so that they can be written as they were."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

ANY_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
LINE_FEED: Final = re.compile(rb"\n")

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ByteLine:
    """A line of a file."""

    number: int
    """From 1."""
    first: int
    """The position of its first byte in the file."""
    data: bytes
    """Without its end; that of the first line without a byte order mark."""


class LineSplitter:
    """Cuts the bytes of one file into lines as they arrive."""

    def __init__(self, end: re.Pattern[bytes]) -> None:
        """`end` matches what ends a line."""
        self._end = end
        self._begun = bytearray()
        self._held = b""
        self._number = self._first = 0

    def feed(self, chunk: bytes) -> Iterator[ByteLine]:
        """Yield the lines that `chunk` completes."""
        chunk = self._held + chunk
        self._held = b"\r" if chunk.endswith(b"\r") else b""  # it may be half of an end
        yield from self._split(chunk.removesuffix(self._held))

    def end(self) -> Iterator[ByteLine]:
        """Yield the last lines."""
        yield from self._split(self._held)
        if self._begun and (self._number or self._begun != _BYTE_ORDER_MARK):
            yield self._complete(end_bytes=0)

    def _split(self, data: bytes) -> Iterator[ByteLine]:
        read = 0
        for end in self._end.finditer(data):
            self._begun += data[read : end.start()]
            read = end.end()
            yield self._complete(read - end.start())
        self._begun += data[read:]

    def _complete(self, end_bytes: int) -> ByteLine:
        self._number += 1
        data = bytes(self._begun)
        line = data.removeprefix(_BYTE_ORDER_MARK) if self._number == 1 else data
        first = self._first + len(data) - len(line)
        self._first += len(data) + end_bytes
        self._begun.clear()
        return ByteLine(self._number, first, line)
