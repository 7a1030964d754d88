"""Visible text: signs for characters that a terminal or browser would hide, reorder or obey.

Control characters act as terminal commands, bidirectional overrides reverse a page's text, and zero-width characters
leave gaps in tables.
"""

import unicodedata
from collections.abc import Mapping
from typing import Final

_SIGNS: Final[Mapping[str, str]] = {" ": "␣", "\n": "↵", "\t": "⇥", "\x7f": "␡"}
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
"""Unicode categories without a visible shape: control, format, unassigned, private use, surrogate, separator."""

_CONTROLS: Final = 0x20
_CONTROL_PICTURES: Final = 0x2400


def glyph(character: str) -> str:
    """Return a visible sign for one character: "␣", "↵", "␛", "⟨U+202E⟩", "◌́", or "a"."""
    category = unicodedata.category(character)
    if character in _SIGNS:
        return _SIGNS[character]
    if ord(character) < _CONTROLS:
        return chr(_CONTROL_PICTURES + ord(character))
    if category in _HIDDEN or category == "Zs":
        return f"⟨U+{ord(character):04X}⟩"
    return f"◌{character}" if category.startswith("M") else character


def legible(text: str) -> str:
    """Return `text` with a sign for each invisible character except white space and line feeds."""
    return "".join(glyph(c) if unicodedata.category(c) in _HIDDEN and c not in "\n\t" else c for c in text)


def one_line(text: str) -> str:
    """Return `text` as one line, with signs for line feeds and tabs too."""
    return legible(text).replace("\n", _SIGNS["\n"]).replace("\t", _SIGNS["\t"])
