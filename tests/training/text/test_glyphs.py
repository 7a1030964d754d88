import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.text.glyphs import glyph, legible, one_line


@given(st.characters(codec=None))
def test_a_glyph_can_be_seen(character: str) -> None:
    sign = glyph(character)
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"} for c in sign)
    assert not unicodedata.category(sign[0]).startswith("M")


@given(st.text())
def test_legible_text_holds_no_commands_and_keeps_what_can_be_seen(text: str) -> None:
    shown = legible(text)
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs"} for c in shown if c not in "\n\t")
    if all(c.isprintable() or c in "\n\t" for c in text):
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a b", "a b"), ("a\x1b[2J", "a␛[2J"), ("a\nb\tc\r", "a↵b⇥c␍"), ("\u202eab\u2028", "⟨U+202E⟩ab⟨U+2028⟩")],
)
def test_one_line_is_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown
