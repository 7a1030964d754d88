"""Normalization: applied to every text before it is encoded, in training and in serving.

    line-feeds   no byte order mark at the start; every line end is a line feed
    nfc          line-feeds, then Unicode's composed form: one way to write each accented letter
    letters      line-feeds, then one space for every run of characters outside A-Z and a-z, in lower case (d2l)

A model names its normalization, so that a server treats a request's text as training treated the corpus. A text in
pieces is normalized piece by piece, with the same result.
"""

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Final

BYTE_ORDER_MARK: Final = "\ufeff"

_NO_LETTERS: Final = re.compile("[^A-Za-z]+")

_VERBATIM: Final = "verbatim"
"""No model has it."""

_LONG_RUN: Final = 32
"""Consecutive combining marks: more than any language uses, and few enough for quadratic time."""


def line_feeds(text: str) -> str:
    """Drop a byte order mark at the start and write every line end (CR, CR LF) as a line feed."""
    return _line_feeds(text.removeprefix(BYTE_ORDER_MARK))


def nfc(text: str) -> str:
    """Normalize line ends, then return Unicode's Normalization Form C."""
    return _composed(line_feeds(text))


def letters(text: str) -> str:
    """Keep the letters A-Z and a-z, in lower case; every run of others becomes one space."""
    return _NO_LETTERS.sub(" ", line_feeds(text)).lower()


NORMALIZATIONS: Final[Mapping[str, Callable[[str], str]]] = {"line-feeds": line_feeds, "nfc": nfc, "letters": letters}
"""All normalizations, by the name that a model carries."""


def normalized(blocks: Iterable[str], normalization: str) -> Iterator[str]:
    """Yield, in blocks, NORMALIZATIONS[normalization] of the joined `blocks`."""
    normalizer = Normalizer(normalization)
    for block in blocks:
        yield normalizer.feed(block)
    yield normalizer.end()


class Normalizer:
    """Normalizes a text in pieces, with the same result as in one piece.

    It holds back what the next piece may still change: a few characters in any language.
    """

    def __init__(self, normalization: str, *, begins: bool = True, after: str = "") -> None:
        """`begins`: whether this is the start of a text, where a byte order mark is dropped.

        `after` is the normalized character before the text, if any.
        """
        self._settled, self._rewrite = _PIECEWISE[normalization]
        self._mark = BYTE_ORDER_MARK if begins else ""
        self._last = after
        self._held = ""

    @classmethod
    def verbatim(cls) -> "Normalizer":
        """Return a normalizer that changes nothing: for a text that a model wrote."""
        return cls(_VERBATIM, begins=False)

    @property
    def held_count(self) -> int:
        """How many of the fed characters are held back."""
        return len(self._held)

    def feed(self, piece: str) -> str:
        """Return the normalized text that no further piece can change."""
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
    """Hold back a final carriage return: a line feed may follow."""
    return len(text) - text.endswith("\r")


def _before_boundary(text: str, known: int) -> int:
    """Hold back the text after the last boundary; the first `known` characters hold none."""
    places = reversed(range(known, len(text)))
    return next((at for at in places if is_boundary(text[at]) and text[max(0, at - 1) : at + 1] != "\r\n"), 0)


def _everything(text: str, _known: int) -> int:
    return len(text)


def _rewrite_line_feeds(text: str, _last: str) -> str:
    return _line_feeds(text)


def _keep(text: str, _last: str) -> str:
    return text


def _rewrite_nfc(text: str, _last: str) -> str:
    return _composed(_line_feeds(text))


def _composed(text: str) -> str:
    """Return Unicode's Normalization Form C of `text`, in linear time.

    Python takes quadratic time to order a run of marks, and a text may consist of marks. So long runs are ordered
    first, by a stable sort on combining class (Unicode Standard, D109), which leaves the normal form the same.
    """
    if unicodedata.is_normalized("NFC", text):  # usually true, and a hundred times faster than the search for runs
        return text
    return unicodedata.normalize("NFC", _long_runs().sub(_in_order, text))


def _in_order(run: re.Match[str]) -> str:
    marks = "".join(unicodedata.normalize("NFD", character) for character in run[0])
    return "".join(sorted(marks, key=unicodedata.combining))


@cache
def _long_runs() -> re.Pattern[str]:
    """Return the pattern of long runs of characters that decompose into marks."""
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if _begins_with_mark(c))
    return re.compile(f"[{re.escape(marks)}]{{{_LONG_RUN},}}")


def _begins_with_mark(character: str) -> bool:
    if unicodedata.combining(character):
        return True
    return bool(unicodedata.decomposition(character)) and bool(
        unicodedata.combining(unicodedata.normalize("NFD", character)[0])
    )


def _rewrite_letters(text: str, last: str) -> str:
    """Write one space where a run begins, and none where a piece continues it."""
    return _NO_LETTERS.sub(" ", text).lower().removeprefix(" " if last == " " else "")


_PIECEWISE: Final[Mapping[str, tuple[Callable[[str, int], int], Callable[[str, str], str]]]] = {
    "line-feeds": (_before_carriage_return, _rewrite_line_feeds),
    "nfc": (_before_boundary, _rewrite_nfc),
    "letters": (_everything, _rewrite_letters),
    _VERBATIM: (_everything, _keep),
}
"""For each: the length of a text that no continuation changes, and its rewriting after a given character."""


def is_boundary(character: str) -> bool:
    """Return whether NFC never composes `character` with what precedes it.

    That holds if the first character of its decomposition is no combining mark and never comes second in a composition
    (Unicode Standard Annex #15, "Stable Code Points").
    """
    first = unicodedata.normalize("NFD", character)[0]
    return character.isascii() or (not unicodedata.combining(first) and first not in _composing_with_before())


@cache
def _composing_with_before() -> frozenset[str]:
    """Return the characters that come second in a composition: from Python's Unicode table and Hangul's rule."""
    decompositions = (unicodedata.decomposition(chr(c)).split() for c in range(sys.maxunicode + 1))
    seconds = {chr(int(parts[1], 16)) for parts in decompositions if len(parts) == 2 and "<" not in parts[0]}  # noqa: PLR2004 - a pair
    hangul = {chr(c) for c in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    return frozenset(seconds | hangul)
