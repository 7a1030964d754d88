"""Compressors as language models: the nats that gzip and xz spend on a text.

After reading the training text, a compressor spends size(training + text) - size(training) bytes on the text, so that
it knows what the language model knows, and the fixed cost of a file cancels out. Without a training text it is the
compressed size of the text. On tinyshakespeare's last tenth, gzip -9 takes 2.146 nats per character and xz -9e 1.746;
without the training text, 2.212 and 2.043. (gzip's window is 32 KiB, xz's 64 MiB.)

Shapes: N ids of a text.
"""

import lzma
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, Protocol

import numpy as np

from segue_training.text.vocabulary import Ids, Vocabulary

BLOCK: Final = 2**20
"""Ids decoded at a time."""

_GZIP_FORMAT: Final = 31  # zlib's wbits for the largest window and gzip's header
_REPLACEMENT: Final = "\ufffd"


class Compressor(Protocol):
    """Compresses a stream of bytes."""

    def compress(self, data: bytes, /) -> bytes:
        """Return the compressed bytes that are ready."""

    def flush(self) -> bytes:
        """Return the rest."""


COMPRESSORS: Final[Mapping[str, Callable[[], Compressor]]] = {
    "gzip -9": lambda: zlib.compressobj(9, zlib.DEFLATED, _GZIP_FORMAT),
    "xz -9e": lambda: lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME),
}
"""Constructors by command line."""


def compressed_nats(name: str, training_N: Ids, text_N: Ids, vocabulary: Vocabulary) -> float:
    """Return the nats that the compressor `name` spends on the whole text, after the training text if any."""
    both = _size(name, chain(utf_8(training_N, vocabulary), utf_8(text_N, vocabulary)))
    before = _size(name, utf_8(training_N, vocabulary)) if len(training_N) else 0
    return (both - before) * 8 * math.log(2)


def utf_8(ids_N: Ids, vocabulary: Vocabulary) -> Iterator[bytes]:
    """Yield a text as UTF-8 blocks, with U+FFFD for `<unk>`."""
    for start in range(0, len(ids_N), BLOCK):
        yield _utf_8(ids_N[start : start + BLOCK], vocabulary)


def _utf_8(ids_N: Ids, vocabulary: Vocabulary) -> bytes:
    if vocabulary.alphabet == "bytes":
        return (ids_N - 1).astype(np.uint8).tobytes()
    code_points = np.array([ord(_REPLACEMENT), *map(ord, vocabulary.characters[1:])], dtype="<u4")
    return code_points[ids_N].tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8", "surrogatepass")


def _size(name: str, blocks: Iterable[bytes]) -> int:
    compressor = COMPRESSORS[name]()
    return sum(len(compressor.compress(block)) for block in blocks) + len(compressor.flush())
