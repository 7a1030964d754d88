import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.text.normalization import NORMALIZATIONS, is_boundary, letters, line_feeds, nfc, normalized

texts = st.text(
    alphabet=st.sampled_from("aB \r\n\ufeffe\u0301") | st.characters(exclude_categories=["Cs"]), max_size=40
)


@pytest.mark.parametrize(
    "alphabet",
    [
        "a\r\n\ufeff",  # line ends and byte order marks
        "aB .猫",  # letters and others
        "aé\u0301\u0315\u0323",  # marks that are reordered, some of which compose
        "\u1100\u1161\u11a8가각",  # the parts of Hangul's syllables
        "\u09c7\u09bea",  # a vowel sign that composes but is no combining mark
        "\u0f40\u0f73\u0f74",  # a starter that decomposes into marks
        "Å\u212b\u0958\u0344",  # changed by NFC
    ],
)
@pytest.mark.parametrize("name", NORMALIZATIONS)
@given(data=st.data())
def test_blocks_are_normalized_as_the_whole_however_they_are_cut(alphabet: str, name: str, data: st.DataObject) -> None:
    blocks = data.draw(st.lists(st.text(alphabet, max_size=4), max_size=6))
    assert "".join(normalized(blocks, name)) == NORMALIZATIONS[name]("".join(blocks))


@given(texts, st.sampled_from(sorted(NORMALIZATIONS)))
def test_normalizing_twice_is_normalizing_once(text: str, name: str) -> None:
    once = NORMALIZATIONS[name](text)
    assert "\r" not in once
    assert NORMALIZATIONS[name](once) == once or once.startswith("\ufeff")


def test_no_composition_of_unicode_reaches_over_a_boundary() -> None:
    for code_point in range(sys.maxunicode + 1):
        parts = unicodedata.normalize("NFD", chr(code_point))
        whole = unicodedata.normalize("NFC", parts)
        for i in range(1, len(parts)):
            if is_boundary(parts[i]):
                before, after = (unicodedata.normalize("NFC", part) for part in (parts[:i], parts[i:]))
                assert before + after == whole, f"U+{code_point:04x}"


@pytest.mark.parametrize("block", ["猫", "가", "Б", "ก", "\u0627", "\n"])
def test_hardly_anything_is_held_back_in_any_language(block: str) -> None:
    stream = normalized(iter([block * 1000] * 3), "nfc")
    next(stream)
    assert len(next(stream)) == 1000


def test_line_ends_of_every_system_are_line_feeds() -> None:
    assert line_feeds("\ufeffa\r\nb\rc\n\r\n") == "a\nb\nc\n\n"


def test_an_accent_is_written_in_one_way() -> None:
    assert nfc("cafe\u0301\r\n") == nfc("caf\u00e9\n") == "caf\u00e9\n"


def test_letters_are_all_that_is_left() -> None:
    assert letters("\ufeffThe Time-Machine,\r\n by H. G. Wells [1898]\n") == "the time machine by h g wells "


def test_no_other_language_counts_as_letters() -> None:
    assert letters("Straße 猫 É") == "stra e "


@given(st.text("eé\u0301\u0316\u0323\u0344\u0f73\u0345\u3099가\u11a8", max_size=200), st.integers(0, 100))
def test_long_rows_of_marks_are_written_as_unicode_has_it(text: str, at: int) -> None:
    text = text[:at] + "\u0301\u0316\u0344\u0f73" * 20 + text[at:]
    assert nfc(text) == unicodedata.normalize("NFC", text)


def test_a_text_of_nothing_but_marks_takes_no_longer_than_another() -> None:
    """Python's own algorithm would take half an hour."""
    count = 500_000
    written = nfc("a" + "\u0301" * count + "\u0316" * count)
    assert written == "\u00e1" + "\u0316" * count + "\u0301" * (count - 1)
