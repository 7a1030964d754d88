"""Text made visible: no character of a corpus hides, reorders or steers what displays it.

Control characters would reach a terminal as commands, bidirectional overrides would turn a page's text around, and
a character of no width would be a gap in a table. Here each becomes a sign that says what it is.
"""

import unicodedata
from collections.abc import Mapping
from typing import Final

_SIGNS: Final[Mapping[str, str]] = {" ": "␣", "\n": "↵", "\t": "⇥", "\x7f": "␡"}
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
"""Unicode's categories of characters without a shape: controls, formats, unassigned, private, separators."""

_CONTROLS: Final = 0x20
_CONTROL_PICTURES: Final = 0x2400


def glyph(character: str) -> str:
    """Return a sign for one character that can be seen by itself: "␣", "↵", "␛", "⟨U+202E⟩", "◌́", or "a"."""
    category = unicodedata.category(character)
    if character in _SIGNS:
        return _SIGNS[character]
    if ord(character) < _CONTROLS:
        return chr(_CONTROL_PICTURES + ord(character))
    if category in _HIDDEN or category == "Zs":
        return f"⟨U+{ord(character):04X}⟩"
    return f"◌{character}" if category.startswith("M") else character


def legible(text: str) -> str:
    """Return `text` with a sign for each character without a shape; white space and line feeds stay."""
    return "".join(glyph(c) if unicodedata.category(c) in _HIDDEN and c not in "\n\t" else c for c in text)


def one_line(text: str) -> str:
    """Return `text` as one line, in which line feeds and tabs are signs."""
    return legible(text).replace("\n", _SIGNS["\n"]).replace("\t", _SIGNS["\t"])
