from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_export.graphs.sampler import UNIFORM_BITS
from segue_server.engine.decode_rows import DRAWN, LONGEST_TICK
from segue_server.engine.random_numbers import WORDS, philox, uniforms

SEEDS = st.integers(0, 2**64 - 1)
POSITIONS = st.integers(0, 2**61).map(lambda block: block * WORDS) | st.integers(0, 50).map(lambda block: block * WORDS)
# The known answers that the authors publish with their library (Random123, kat_vectors, philox4x32 10).
ANSWERS = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)


def words(hexadecimal: str) -> list[np.ndarray]:
    return [np.array([int(word, 16)], dtype=np.uint64) for word in hexadecimal.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, expected: str) -> None:
    a, b, c, d = words(counter)
    left, right = words(key)
    assert [int(word[0]) for word in philox((a, b, c, d), (left, right))] == [int(w, 16) for w in expected.split()]


def test_the_first_block_of_seed_0_is_the_published_one() -> None:
    """Which word, and which bits of it, a position gets: a ticket counts on that."""
    expected = [(int(word, 16) >> 9) * 2.0**-23 + 2.0**-24 for word in ANSWERS[0][2].split()]
    assert numbers(0, 0, 4).tolist() == expected


def numbers(seed: int, start: int, count: int) -> np.ndarray:
    return uniforms(np.array([seed], dtype=np.uint64), np.array([start], dtype=np.uint64), count)[0]


@given(SEEDS, POSITIONS, st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_number_is_the_same_from_wherever_it_is_drawn(seed: int, start: int, blocks: list[int]) -> None:
    ends = np.cumsum([0, *blocks]) * WORDS
    parts = [numbers(seed, start + int(a), int(b - a)) for a, b in pairwise(ends)]
    assert np.concatenate(parts).tobytes() == numbers(seed, start, int(ends[-1])).tobytes()


@given(st.lists(st.tuples(SEEDS, POSITIONS), min_size=1, max_size=50))
def test_a_number_depends_on_its_seed_and_position_alone(pairs: list[tuple[int, int]]) -> None:
    seeds, positions = np.array(pairs, dtype=np.uint64).T
    together = uniforms(seeds, positions, 8)
    assert [row.tolist() for row in together] == [numbers(*pair, 8).tolist() for pair in pairs]


@given(SEEDS, POSITIONS)
def test_each_position_has_a_word_of_its_own_and_each_seed_another(seed: int, start: int) -> None:
    """Among 64 numbers of 23 bits hardly two are equal: not one pair in most draws, never a handful."""
    assert len(set(numbers(seed, start, 64).tolist())) > 60
    assert np.count_nonzero(numbers(seed, start, 64) == numbers(seed ^ 1, start, 64)) < 4
    assert np.count_nonzero(numbers(seed, start, 64) == numbers(seed ^ 2**63, start, 64)) < 4
    assert np.count_nonzero(numbers(seed, start, 64) == numbers(seed, start ^ 2**40, 64)) < 4


def test_numbers_lie_between_0_and_1_and_never_at_either(monkeypatch: pytest.MonkeyPatch) -> None:
    found = numbers(7, 0, 2**18)
    assert found.dtype == np.float32
    assert 0 < found.min() < found.max() < 1
    for word, expected in ((0, 2.0**-24), (2**32 - 1, 1 - 2.0**-24)):
        full = np.array([[word]], dtype=np.uint64)
        monkeypatch.setattr("segue_server.engine.random_numbers.philox", lambda *_, full=full: (full,) * 4)
        assert numbers(1, 0, 4).tolist() == [expected] * 4
    assert UNIFORM_BITS == 23


def test_a_draw_lasts_for_the_longest_tick_wherever_it_begins() -> None:
    assert DRAWN % WORDS == 0
    for position in range(WORDS):
        assert position // WORDS * WORDS + DRAWN >= position + LONGEST_TICK


@pytest.mark.parametrize("axis", ["positions of one seed", "seeds at one position"])
def test_neighbours_are_spread_evenly(axis: str) -> None:
    if axis == "positions of one seed":
        found = numbers(0, 0, 100_000)
    else:
        found = uniforms(np.arange(100_000, dtype=np.uint64), np.zeros(100_000, dtype=np.uint64), 4)[:, 1]
    counts, _ = np.histogram(found, bins=100, range=(0, 1))
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert 60 < chi_square < 150  # 99 degrees of freedom: 99 expected, standard deviation 14
    for lag in (1, 2, 4):
        assert abs(np.corrcoef(found[:-lag], found[lag:])[0, 1]) < 0.01
