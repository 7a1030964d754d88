"""What is done to every text before it is encoded: by training, and by everything that reads its models.

    line-feeds   no byte order mark at the start; every line end is a line feed
    nfc          the same, then Unicode's composed form: one way to write each accented letter
    letters      the same, then one space for every run of other characters than A-Z and a-z, in lower case (d2l)

A model carries the name of its normalization, so that a server treats a request's text exactly as training
treated the corpus. A text that comes in pieces is normalized piece by piece, with the same result.
"""

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Final

BYTE_ORDER_MARK: Final = "\ufeff"

_NO_LETTERS: Final = re.compile("[^A-Za-z]+")

_LONG_RUN: Final = 32
"""Marks in a row: no language has so many, and the square of fewer is no matter."""


def line_feeds(text: str) -> str:
    """Drop a byte order mark at the start and write every line end (CR, CR LF) as a line feed."""
    return _line_feeds(text.removeprefix(BYTE_ORDER_MARK))


def nfc(text: str) -> str:
    """Write line ends as line feeds, then all of the text in Unicode's Normalization Form C."""
    return _composed(line_feeds(text))


def letters(text: str) -> str:
    """Keep the letters A-Z and a-z, in lower case; whatever lies between them becomes one space."""
    return _NO_LETTERS.sub(" ", line_feeds(text)).lower()


NORMALIZATIONS: Final[Mapping[str, Callable[[str], str]]] = {"line-feeds": line_feeds, "nfc": nfc, "letters": letters}
"""Every known normalization by the name that a model carries."""

DEFAULT_NORMALIZATION: Final = "line-feeds"


def normalized(blocks: Iterable[str], normalization: str) -> Iterator[str]:
    """Yield, in blocks, what NORMALIZATIONS[normalization] makes of the joined `blocks`."""
    normalizer = Normalizer(normalization)
    for block in blocks:
        yield normalizer.feed(block)
    yield normalizer.end()


class Normalizer:
    """Normalizes one text that comes in pieces, as if it had come whole.

    It holds back what the next piece may still change: a few characters, in any language.
    """

    def __init__(self, normalization: str, *, begins: bool = True, after: str = "") -> None:
        """`begins`: whether the text begins here, so that a byte order mark is none of its characters.

        `after` is the character before it, already normalized, if there is one.
        """
        self._settled, self._rewrite = _PIECEWISE[normalization]
        self._mark = BYTE_ORDER_MARK if begins else ""
        self._last = after
        self._held = ""

    @property
    def held_count(self) -> int:
        """How many of the characters that were fed are held back."""
        return len(self._held)

    def feed(self, piece: str) -> str:
        """Return what is certain now."""
        if piece:
            piece, self._mark = piece.removeprefix(self._mark), ""
        text = self._held + piece
        settled = self._settled(text, len(self._held))
        self._held = text[settled:]
        return self._written(text[:settled])

    def end(self) -> str:
        """Return the rest of the text."""
        text, self._held = self._held, ""
        return self._written(text)

    def _written(self, text: str) -> str:
        written = self._rewrite(text, self._last)
        self._last = written[-1:] or self._last
        return written


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _before_carriage_return(text: str, _known: int) -> int:
    """Hold back a carriage return at the end: a line feed may follow."""
    return len(text) - text.endswith("\r")


def _before_boundary(text: str, known: int) -> int:
    """Hold back what stands behind the last boundary, which is not among the first `known` characters."""
    places = reversed(range(known, len(text)))
    return next((at for at in places if is_boundary(text[at]) and text[max(0, at - 1) : at + 1] != "\r\n"), 0)


def _everything(text: str, _known: int) -> int:
    return len(text)


def _rewrite_line_feeds(text: str, _last: str) -> str:
    return _line_feeds(text)


def _rewrite_nfc(text: str, _last: str) -> str:
    return _composed(_line_feeds(text))


def _composed(text: str) -> str:
    """Return Unicode's Normalization Form C of `text`, in time that is linear in its length.

    Python's own takes quadratic time to put a run of marks in order, and a text may be nothing but marks. So long runs
    are put in order before: a stable sort by combining class (Unicode Standard, D109), which changes no text's form.
    """
    if unicodedata.is_normalized("NFC", text):  # most texts are: a hundredth of the time that looking for runs takes
        return text
    return unicodedata.normalize("NFC", _long_runs().sub(_in_order, text))


def _in_order(run: re.Match[str]) -> str:
    marks = "".join(unicodedata.normalize("NFD", character) for character in run[0])
    return "".join(sorted(marks, key=unicodedata.combining))


@cache
def _long_runs() -> re.Pattern[str]:
    """Return what finds runs of characters that decompose into marks."""
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if _begins_with_mark(c))
    return re.compile(f"[{re.escape(marks)}]{{{_LONG_RUN},}}")


def _begins_with_mark(character: str) -> bool:
    if unicodedata.combining(character):
        return True
    return bool(unicodedata.decomposition(character)) and bool(
        unicodedata.combining(unicodedata.normalize("NFD", character)[0])
    )


def _rewrite_letters(text: str, last: str) -> str:
    """Write the space of a run where the run begins, and not again in the pieces through which it goes on."""
    return _NO_LETTERS.sub(" ", text).lower().removeprefix(" " if last == " " else "")


_PIECEWISE: Final[Mapping[str, tuple[Callable[[str, int], int], Callable[[str, str], str]]]] = {
    "line-feeds": (_before_carriage_return, _rewrite_line_feeds),
    "nfc": (_before_boundary, _rewrite_nfc),
    "letters": (_everything, _rewrite_letters),
}
"""How much of a text is certain whatever follows, and what becomes of that, behind the last character written."""


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
