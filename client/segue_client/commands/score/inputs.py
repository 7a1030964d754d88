"""Files and standard input of any size, read as UTF-8 text in pieces."""

import codecs
import io
import os
import re
import select
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from segue_client.commands.score.bad_rows import BadRow
from segue_client.commands.score.byte_lines import ANY_LINE_END, ByteLine, LineSplitter
from segue_client.errors import InvalidRequest

STANDARD_INPUT: Final = "standard input"

CHUNK_BYTES: Final = 65_536
"""The capacity of a pipe."""

HEAD_BYTES: Final = 16
"""Enough to tell how a file is encoded or compressed."""

_MARKS: Final = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    *((b"BZh%d1AY&SY" % level, "bzip2") for level in range(1, 10)),  # a text may begin with BZh
)


class Input:
    """One file, or standard input."""

    def __init__(self, name: str, file: BinaryIO, note: Callable[[int], None] = lambda _count: None) -> None:
        """`note` is called with the number of bytes of each read."""
        self.name = name
        self._file = file
        self._note = note
        self._byte_count = 0
        """Bytes given to the decoder."""
        self._head = b""

    @property
    def is_live(self) -> bool:
        """Whether more may arrive later, as through a pipe."""
        try:
            return not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        except (OSError, io.UnsupportedOperation):  # a test's stand-in for standard input
            return False

    @property
    def is_waiting(self) -> bool:
        """Whether the next read would block."""
        return self.is_live and not select.select([self._file], [], [], 0)[0]

    def pieces(self) -> Iterator[str]:
        """Yield the text as it is read. Bytes that are not UTF-8 raise BadRow after the text before them."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        while chunk := self._read():
            yield from self._decoded(decoder, chunk, is_last=False)
        yield from self._decoded(decoder, b"", is_last=True)

    def lines(self) -> Iterator[ByteLine | None]:
        r"""Yield each line that is not empty; and None whenever the next read would block.

        They come without their end, which is \n, \r or \r\n.
        """
        return (line for line in self.byte_lines(ANY_LINE_END) if line is None or line.data)

    def byte_lines(self, end: re.Pattern[bytes]) -> Iterator[ByteLine | None]:
        """Yield each line without the `end` that it has; and None whenever the next read would block.

        A file that is compressed, or marked as UTF-16 or UTF-32, raises InvalidRequest: no line of it is what it seems.
        """
        splitter = LineSplitter(end)
        while chunk := self._read():
            self._check_whole()
            yield from splitter.feed(chunk)
            if self.is_waiting:
                yield None
        yield from splitter.end()

    def decoded(self, line: ByteLine) -> str:
        """Return the text of a line; raise BadRow if it is not UTF-8."""
        try:
            return line.data.decode()
        except UnicodeDecodeError as error:
            raise self._refusal(self.place(line), error, line.first) from error

    def place(self, line: ByteLine) -> str:
        """Return what a line is called."""
        return f"{self.name}:{line.number}"

    def _read(self) -> bytes:
        # `read1` returns what is available; `read` would wait for more.
        chunk = self._file.read1(CHUNK_BYTES) if isinstance(self._file, io.BufferedReader) else self._file.read()
        self._note(len(chunk))
        self._head += chunk[: HEAD_BYTES - len(self._head)]
        return chunk

    def _check_whole(self) -> None:
        if tool := _named(self._head, _COMPRESSED):
            raise InvalidRequest(f"{self.name} is compressed by {tool}; {self._decompress(tool)}")
        if encoding := _named(self._head, _MARKS):
            raise InvalidRequest(f"{self.name} is not UTF-8 but {encoding.upper()}; {self._convert(encoding)}")

    @property
    def _argument(self) -> str:
        """The file in a command; one that names none reads standard input."""
        return "" if self.name == STANDARD_INPUT else f" {shlex.quote(self.name)}"

    def _decompress(self, tool: str) -> str:
        return f"decompress it first, for example with: {tool} -dc{self._argument} > NEW"

    def _convert(self, encoding: str) -> str:
        return f"convert it first, for example with: iconv -f {encoding} -t utf-8{self._argument} > NEW"

    def _remedy(self, error: UnicodeDecodeError) -> str:
        """Name a command that makes the file readable."""
        if tool := _named(self._head, _COMPRESSED):
            return self._decompress(tool)
        encoding = _named(self._head, _MARKS) or "latin1"
        if encoding == "latin1" and not error.object[: error.start].isascii():  # which was UTF-8
            latin, drop = (f"iconv {option} -t utf-8{self._argument} > NEW" for option in ("-f latin1", "-c -f utf-8"))
            return f"if it is Latin-1: {latin}; to drop the bad bytes: {drop}"
        cut = "it is cut off, or in another encoding: " if error.reason == "unexpected end of data" else ""
        return f"{cut}{self._convert(encoding)}"

    def _decoded(self, decoder: codecs.IncrementalDecoder, chunk: bytes, *, is_last: bool) -> Iterator[str]:
        undecoded = len(decoder.getstate()[0])
        first = self._byte_count - undecoded
        self._byte_count += len(chunk)
        try:
            text = decoder.decode(chunk, final=is_last)
        except UnicodeDecodeError as error:
            yield error.object[: error.start].decode()
            raise self._refusal(self.name, error, first) from error
        yield text

    def _refusal(self, name: str, error: UnicodeDecodeError, first: int) -> BadRow:
        """Say what is not UTF-8; `first` is the position of the undecoded bytes in their file."""
        wrong, at = error.object[error.start], first + error.start
        return BadRow(f"{name} is not UTF-8: byte 0x{wrong:02x} at position {at:,}; {self._remedy(error)}")


def _named(head: bytes, magics: Iterable[tuple[bytes, str]]) -> str | None:
    """Return the name beside what `head` begins with."""
    return next((name for magic, name in magics if head.startswith(magic)), None)


@contextmanager
def opened(file: str, note: Callable[[int], None] = lambda _count: None) -> Iterator[Input]:
    """Open a file, or standard input for "-"."""
    if file == "-":
        yield Input(STANDARD_INPUT, sys.stdin.buffer, note)
    else:
        with Path(file).open("rb") as opened_file:
            yield Input(file, opened_file, note)


def size_of(file: str) -> int | None:
    """Return the size in bytes, or None if it is unknown."""
    try:
        status = os.fstat(sys.stdin.buffer.fileno()) if file == "-" else Path(file).stat()
    except (OSError, io.UnsupportedOperation):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
