import numpy as np
import pytest
from charlm_server.random_numbers import philox, uniforms
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.integers(0, 2**64 - 1)


# The known answers that the authors publish with their library (Random123, kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_answers(counter: str, key: str, expected: str) -> None:
    a, b, c, d = (np.array([int(word, 16)], dtype=np.uint64) for word in counter.split())
    left, right = (np.array([int(word, 16)], dtype=np.uint64) for word in key.split())
    assert [int(word[0]) for word in philox((a, b, c, d), (left, right))] == [int(w, 16) for w in expected.split()]


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=50))
def test_a_number_depends_on_its_seed_and_position_alone(pairs: list[tuple[int, int]]) -> None:
    seeds, positions = np.array(pairs, dtype=np.uint64).T
    together = uniforms(seeds, positions)
    alone = [uniforms(seeds[i : i + 1], positions[i : i + 1])[0] for i in range(len(pairs))]
    assert together.tolist() == alone
    assert np.all((together >= 0) & (together < 1))


@pytest.mark.parametrize("axis", ["positions of one seed", "seeds at one position"])
def test_neighbours_are_spread_evenly(axis: str) -> None:
    run, fixed = np.arange(100_000, dtype=np.uint64), np.zeros(1, dtype=np.uint64)
    numbers = uniforms(fixed, run) if axis == "positions of one seed" else uniforms(run, fixed)
    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert 60 < chi_square < 150  # 99 degrees of freedom: 99 expected, standard deviation 14
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01
