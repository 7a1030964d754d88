"""Compressors as language models: what gzip and xz need for a text, in nats per character.

A compressor that has read the training text spends size(training + text) - size(training) bytes on the text: so it is
given what a language model is given, and the fixed cost of a file cancels out. Without a training text that is the
compressed size of the text by itself. Of tinyshakespeare's last tenth, gzip -9 takes 2.146 nats a character and
xz -9e 1.746, and by itself 2.212 and 2.043. (gzip remembers 32 KiB, xz 64 MiB.)

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
"""Ids that are decoded at a time."""

_GZIP_FORMAT: Final = 31  # of zlib: the largest window, and gzip's header
_REPLACEMENT: Final = "\ufffd"


class Compressor(Protocol):
    """Takes bytes in parts, and gives back others."""

    def compress(self, data: bytes, /) -> bytes:
        """Return what is ready of the compressed text."""

    def flush(self) -> bytes:
        """Return the rest of it."""


COMPRESSORS: Final[Mapping[str, Callable[[], Compressor]]] = {
    "gzip -9": lambda: zlib.compressobj(9, zlib.DEFLATED, _GZIP_FORMAT),
    "xz -9e": lambda: lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME),
}
"""Each by its name on the command line."""


def compressed_nats(name: str, training_N: Ids, text_N: Ids, vocabulary: Vocabulary) -> float:
    """Return the nats that the compressor `name` spends on the whole text, after the training text if there is one."""
    both = _size(name, chain(utf_8(training_N, vocabulary), utf_8(text_N, vocabulary)))
    before = _size(name, utf_8(training_N, vocabulary)) if len(training_N) else 0
    return (both - before) * 8 * math.log(2)


def utf_8(ids_N: Ids, vocabulary: Vocabulary) -> Iterator[bytes]:
    """Yield a text as UTF-8, with U+FFFD in the place of `<unk>`."""
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
