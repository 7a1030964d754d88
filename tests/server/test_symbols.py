"""The automaton of UTF-8 against Python's own decoder."""

import codecs
from itertools import pairwise

import numpy as np
import pytest
from charlm_server.symbols import Spelling, Symbols
from charlm_training.vocabulary import UNKNOWN_ID, Vocabulary
from hypothesis import given
from hypothesis import strategies as st

BYTES = Vocabulary.of_bytes()
UTF8 = Symbols.of(BYTES)
LETTERS = Vocabulary(("<unk>", *"abc"))
FREE = np.array([True])
TEXTS = st.text(max_size=20)


def allowed(prefix: bytes) -> set[int]:
    """The bytes that Python's decoder takes after `prefix`."""
    taken = set()
    for byte in range(256):
        decoder = codecs.getincrementaldecoder("utf-8")()
        decoder.decode(prefix)
        try:
            decoder.decode(bytes([byte]))
        except UnicodeDecodeError:
            continue
        taken.add(byte)
    return taken


@given(TEXTS, st.characters(exclude_categories=["Cs"]))
def test_after_any_part_of_a_character_python_s_decoder_takes_the_same_bytes(text: str, character: str) -> None:
    for written in range(len(character.encode())):
        prefix, spelling = text.encode() + character.encode()[:written], Spelling(UTF8, rows=1)
        for byte in prefix:
            spelling.take(np.array([byte + 1]), FREE)
        open_ids = np.flatnonzero(spelling.barred[0] == 0)
        assert {int(i) - 1 for i in open_ids} == allowed(prefix)
        assert spelling.missing(0) == (len(character.encode()) - written) * (written > 0)


def test_what_can_be_spelled_is_every_code_point_and_nothing_else() -> None:
    lengths = [len(chr(c).encode()) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    states = len(UTF8.next_SV)
    ways_SS = np.array([[np.count_nonzero(row == state) for state in range(states)] for row in UTF8.next_SV])
    within_S = ways_SS[0].copy()  # how many ways lead from the end of a character to each state
    for length in range(1, 5):
        assert within_S[0] == lengths.count(length)
        within_S[0] = 0
        within_S = within_S @ ways_SS
    assert not within_S.any()


@pytest.mark.parametrize("vocabulary", [BYTES, LETTERS], ids=["bytes", "characters"])
@given(text=st.text(alphabet="abcé你𝄞€", min_size=1, max_size=20), least=st.integers(0, 80))
def test_characters_are_found_in_ids(vocabulary: Vocabulary, text: str, least: int) -> None:
    symbols, ids = Symbols.of(vocabulary), vocabulary.encode(text)
    assert symbols.count(ids) == len(text)
    ends = np.cumsum([0] + [len(vocabulary.encode(character)) for character in text]).tolist()
    whole = symbols.whole(ids, least)
    assert whole == min((end for end in ends if end >= least), default=least)
    values = np.arange(len(ids)) + 0.5
    assert symbols.by_character(values, ids).tolist() == [values[a:b].sum() for a, b in pairwise(ends)]
    assert symbols.by_character(values[1:], ids[1:]).tolist() == [
        values[a:b].sum() for a, b in pairwise(ends) if a >= 1
    ]
    assert all(symbols.may_end[ids[end - 1]] for end in ends[1:])


def test_a_vocabulary_of_characters_bars_the_unknown_one_alone() -> None:
    symbols = Symbols.of(LETTERS)
    assert symbols.longest == 1
    assert np.flatnonzero(Spelling(symbols, rows=3).barred[0]).tolist() == [UNKNOWN_ID]


def test_a_state_within_a_character_is_known_by_its_last_byte() -> None:
    last_bytes = set(np.flatnonzero(UTF8.may_end) - 1)
    assert last_bytes == {*range(0x80), *range(0x80, 0xC0)}
