"""What is done to every text before it is encoded: by training, and by everything that reads its models.

    line-feeds   no byte order mark at the start; every line end is a line feed
    nfc          the same, then Unicode's composed form: one way to write each accented letter
    letters      the same, then one space for every run of other characters than A-Z and a-z, in lower case (d2l)

A model carries the name of its normalization, so that a server treats a request's text exactly as training
treated the corpus. A corpus is normalized block by block, with the same result.
"""

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Final

BYTE_ORDER_MARK: Final = "\ufeff"

_NO_LETTERS: Final = re.compile("[^A-Za-z]+")


def line_feeds(text: str) -> str:
    """Drop a byte order mark at the start and write every line end (CR, CR LF) as a line feed."""
    return _line_feeds(text.removeprefix(BYTE_ORDER_MARK))


def nfc(text: str) -> str:
    """Write line ends as line feeds, then all of the text in Unicode's Normalization Form C."""
    return unicodedata.normalize("NFC", line_feeds(text))


def letters(text: str) -> str:
    """Keep the letters A-Z and a-z, in lower case; whatever lies between them becomes one space."""
    return _NO_LETTERS.sub(" ", line_feeds(text)).lower()


NORMALIZATIONS: Final[Mapping[str, Callable[[str], str]]] = {"line-feeds": line_feeds, "nfc": nfc, "letters": letters}
"""Every known normalization by the name that a model carries."""

DEFAULT_NORMALIZATION: Final = "line-feeds"


def normalized(blocks: Iterable[str], normalization: str) -> Iterator[str]:
    """Yield, in blocks, what NORMALIZATIONS[normalization] makes of the joined `blocks`.

    No more is held back than what the next block may still change: a few characters, in any language.
    """
    return _STREAMED[normalization](blocks)


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _without_mark(blocks: Iterable[str]) -> Iterator[str]:
    mark = BYTE_ORDER_MARK
    for block in blocks:
        yield block.removeprefix(mark)
        mark = "" if block else mark


def _stream_line_feeds(blocks: Iterable[str]) -> Iterator[str]:
    """Hold back a carriage return that ends a block: a line feed may follow."""
    held = ""
    for block in _without_mark(blocks):
        text = held + block
        held = "\r" if text.endswith("\r") else ""
        yield _line_feeds(text.removesuffix("\r"))
    yield _line_feeds(held)


def _stream_nfc(blocks: Iterable[str]) -> Iterator[str]:
    """Hold back what stands behind the last boundary."""
    held = ""
    for block in _stream_line_feeds(blocks):
        boundary = next((i for i in reversed(range(len(block))) if is_boundary(block[i])), None)
        if boundary is None:
            held += block
        else:
            yield unicodedata.normalize("NFC", held + block[:boundary])
            held = block[boundary:]
    yield unicodedata.normalize("NFC", held)


def _stream_letters(blocks: Iterable[str]) -> Iterator[str]:
    """Write the space of a run where the run begins, and not again in the blocks through which it goes on."""
    last = ""
    for block in _without_mark(blocks):
        text = _NO_LETTERS.sub(" ", block).lower()
        text = text.removeprefix(last if last == " " else "")
        last = text[-1:] or last
        yield text


_STREAMED: Final[Mapping[str, Callable[[Iterable[str]], Iterator[str]]]] = {
    "line-feeds": _stream_line_feeds,
    "nfc": _stream_nfc,
    "letters": _stream_letters,
}


def is_boundary(character: str) -> bool:
    """Say whether composition (NFC) leaves `character` and all before it apart, whatever stands there.

    It does where the first character that `character` decomposes into is no combining mark and composes with
    nothing before it (Unicode Standard Annex #15, "Stable Code Points").
    """
    first = unicodedata.normalize("NFD", character)[0]
    return character.isascii() or (not unicodedata.combining(first) and first not in _composing_with_before())


@cache
def _composing_with_before() -> frozenset[str]:
    """Return the characters that come second in a composition, by Python's table of Unicode and by Hangul's rule."""
    decompositions = (unicodedata.decomposition(chr(c)).split() for c in range(sys.maxunicode + 1))
    seconds = {chr(int(parts[1], 16)) for parts in decompositions if len(parts) == 2 and "<" not in parts[0]}  # noqa: PLR2004 - a pair
    hangul = {chr(c) for c in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    return frozenset(seconds | hangul)
