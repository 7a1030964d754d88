"""The automaton of UTF-8 against Python's own decoder."""

import codecs
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_server.engine.symbols import Symbols
from segue_training.text.vocabulary import UNKNOWN_ID, Vocabulary

BYTES = Vocabulary.of_bytes()
UTF8 = Symbols.of(BYTES)
LETTERS = Vocabulary(("<unk>", *"abc"))
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


def spell(ids: Iterable[int], state: int = 0) -> int:
    """The automaton's state after `ids`."""
    for symbol in ids:
        state = int(UTF8.next_SV[state, symbol])
        assert state >= 0, "barred"
    return state


@given(TEXTS, st.characters(exclude_categories=["Cs"]))
def test_after_any_part_of_a_character_python_s_decoder_takes_the_same_bytes(text: str, character: str) -> None:
    for written in range(len(character.encode())):
        prefix = text.encode() + character.encode()[:written]
        state = spell(byte + 1 for byte in prefix)
        open_ids = np.flatnonzero(UTF8.next_SV[state] >= 0)
        assert {int(i) - 1 for i in open_ids} == allowed(prefix)
        assert UTF8.missing_S[state] == (len(character.encode()) - written) * (written > 0)
        assert (state == 0) == (written == 0)


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
    assert (symbols.longest, symbols.single, symbols.automaton) == (1, True, None)
    assert symbols.barred.tolist() == [-np.inf, 0, 0, 0]
    assert UNKNOWN_ID == 0


def test_of_bytes_those_are_barred_for_good_that_no_text_holds() -> None:
    never = set(np.flatnonzero(np.isinf(UTF8.barred)) - 1)
    assert never == {UNKNOWN_ID - 1, 0xC0, 0xC1, *range(0xF5, 0x100)}
    assert (UTF8.longest, UTF8.single) == (4, False)
    assert UTF8.automaton is UTF8.next_SV


def test_a_state_within_a_character_is_known_by_its_last_byte() -> None:
    last_bytes = set(np.flatnonzero(UTF8.may_end) - 1)
    assert last_bytes == {*range(0x80), *range(0x80, 0xC0)}


@given(st.lists(st.tuples(st.text(max_size=6), st.integers(0, 3)), min_size=1, max_size=5), st.integers(1, 20))
def test_the_ends_of_characters_are_found_in_what_rows_write(rows: list[tuple[str, int]], steps: int) -> None:
    """From within a character or not, to within one or not."""
    written = [[byte + 1 for byte in ("𝄞" + text + "é" * 30).encode()][cut:][:steps] for text, cut in rows]
    states = [spell([byte + 1 for byte in "𝄞".encode()][:cut]) for _, cut in rows]
    after = np.array([spell(ids, state) for ids, state in zip(written, states, strict=True)])
    ends_KB = UTF8.ends(np.array(written).T, after)
    for row, (ids, state) in enumerate(zip(written, states, strict=True)):
        expected = [spell(ids[: taken + 1], state) == 0 for taken in range(steps)]
        assert ends_KB[:, row].tolist() == expected
