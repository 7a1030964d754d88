"""Compressed texts, recognized by their first bytes and decompressed as they are read.

Memory stays constant whatever a file expands to. A file may hold several members one after the other.
"""

import io
import lzma
import re
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from segue_training.errors import CorpusError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

INPUT: Final = 2**16
"""Compressed bytes per read."""

ZSTANDARD_INPUT: Final = 512
"""Compressed bytes decompressed at once: they expand to 16 MiB at most."""

MEMORY: Final = 2**27 + 2**20
"""Bytes that decompression may use: the largest window that zstd accepts by default, and some more."""


class Decompressor(Protocol):
    """What reads one member: the interface of `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether the next output needs more input."""

    @property
    def unused_data(self) -> bytes:
        """What came after the end of the member."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return the next output, `max_length` bytes at most."""


@dataclass(frozen=True)
class Compression:
    """A format."""

    tool: str
    """The command that reads it."""
    suffix: str
    magic: re.Pattern[bytes]
    """How every file begins; no UTF-8 text begins so, or none that anyone writes."""
    start: Callable[[], Decompressor]
    large: str = ""
    """The tool's option for files that need more than MEMORY."""


def compression_of(head: bytes, name: str) -> Compression | None:
    """Return how a file that begins with `head` is compressed. Raises CorpusError if its name says otherwise."""
    for compression in COMPRESSIONS:
        if compression.magic.match(head):
            return compression
    suffix = PurePath(name).suffix.lower()
    for compression in COMPRESSIONS:
        if suffix == compression.suffix:
            raise CorpusError(
                f"{name} does not begin as {compression.tool} writes: copy it again if it is damaged, "
                "or rename it if it is not compressed"
            )
    return None


def decompressed(stream: BinaryIO, compression: Compression, name: str) -> BinaryIO:
    """Return what `stream` expands to; reading it raises CorpusError, with `name`, if it is damaged."""
    return io.BufferedReader(_Members(stream, compression, name), INPUT)


class _Members(io.RawIOBase):
    def __init__(self, stream: BinaryIO, compression: Compression, name: str) -> None:
        self._stream = stream
        self._compression = compression
        self._name = name
        self._tool = compression.tool
        self._member = compression.start()
        self._next = b""
        """Compressed bytes read but not used."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        while True:
            if self._member.eof and not self._begin_next():
                return 0
            if piece := self._decompress(len(view)):
                view[: len(piece)] = piece
                return len(piece)

    def _begin_next(self) -> bool:
        """Begin the next member, if there is one; NULs may come before it."""
        data = self._member.unused_data.lstrip(b"\0")
        while not data and (block := self._stream.read(INPUT)):
            data = block.lstrip(b"\0")
        if data:
            self._member, self._next = self._compression.start(), data
        return bool(data)

    def _decompress(self, most: int) -> bytes:
        data, is_last = b"", False
        if self._member.needs_input:
            data, self._next = self._next or self._stream.read(INPUT), b""
            is_last = not data
        try:
            piece = self._member.decompress(data, most)
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise self._refused(error) from None
        if is_last and not piece and not self._member.eof:
            raise CorpusError(
                f"{self._name} is cut off: its {self._tool} data end too early; copy or download it again"
            )
        return piece

    def _refused(self, error: Exception) -> CorpusError:
        reason = " ".join(str(error).split())
        if "memory" in reason.lower():
            return CorpusError(
                f"{self._name} needs more than {MEMORY >> 20} MiB of memory to decompress: "
                f"let {self._tool} -dc{self._compression.large} do it, and give - as the text"
            )
        return CorpusError(
            f"{self._name} is damaged: its {self._tool} data are wrong ({reason}); copy or download it again"
        )


class _Rewound(io.RawIOBase):
    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        piece = self._head[: len(view)] or self._rest.read(len(view))
        self._head = self._head[len(piece) :]
        view[: len(piece)] = piece
        return len(piece)


def rewound(head: bytes, rest: BinaryIO) -> BinaryIO:
    """Return a stream of `head`, then of what is left of `rest`."""
    return io.BufferedReader(_Rewound(head, rest), INPUT)


class _Gzip:
    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def needs_input(self) -> bool:
        return not self._member.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._member.decompress(self._member.unconsumed_tail + data, max_length)


class _Zstandard:
    """zstandard's own reader takes a file that is cut off for a whole one."""

    def __init__(self) -> None:
        from zstandard import ZstdDecompressor

        self._frame = ZstdDecompressor().decompressobj()
        self._input = self._output = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self._frame.eof and not self._output

    @property
    def needs_input(self) -> bool:
        return not self._output and not self._input

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data + bytes(self._input)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self._input = memoryview(data) if data else self._input
        if not self._output and not self._frame.eof:
            self._output = memoryview(self._next_output())
        piece, self._output = self._output[:max_length], self._output[max_length:]
        return bytes(piece)

    def _next_output(self) -> bytes:
        from zstandard import ZstdError

        piece, self._input = self._input[:ZSTANDARD_INPUT], self._input[ZSTANDARD_INPUT:]
        try:
            return self._frame.decompress(piece)
        except ZstdError as error:
            raise ValueError(f"{error}") from None


COMPRESSIONS: Final = (
    Compression("gzip", ".gz", re.compile(rb"\x1f\x8b"), _Gzip),
    Compression(
        "zstd", ".zst", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL), _Zstandard, " --long=31"
    ),
    Compression("xz", ".xz", re.compile(rb"\xfd7zXZ\0"), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY)),
    Compression("bzip2", ".bz2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), BZ2Decompressor),
)

SUFFIXES: Final = frozenset(compression.suffix for compression in COMPRESSIONS)
