import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.errors import CorpusError
from segue_training.evaluation.perplexity import (
    Perplexity,
    begins_character,
    first_character,
    to_bits,
    to_perplexity,
)
from segue_training.text.vocabulary import UNKNOWN_ID, Vocabulary

CHARACTERS = Vocabulary.from_text("abcdé")
BYTES = Vocabulary.of_bytes()
TEXTS = st.text(alphabet="aéÿ\x80\x7f你𝄞\n", min_size=1, max_size=40)


def perplexity_of(probabilities: list[float]) -> float:
    with np.errstate(divide="ignore"):
        scores = np.log(probabilities)
    return Perplexity.of([(scores, np.ones(len(scores), np.int64))], CHARACTERS).perplexity


def test_a_model_that_is_certain_and_right_has_perplexity_one() -> None:
    assert perplexity_of([1.0, 1.0, 1.0]) == 1


@given(st.integers(1, 10_000), st.integers(1, 50))
def test_a_model_that_knows_nothing_has_the_size_of_its_vocabulary(size: int, characters: int) -> None:
    assert perplexity_of([1 / size] * characters) == pytest.approx(size)


def test_a_model_that_held_a_character_impossible_has_infinite_perplexity() -> None:
    assert perplexity_of([1.0, 0.0, 1.0]) == math.inf


def test_it_is_the_geometric_mean_of_the_inverse_and_not_the_harmonic() -> None:
    assert perplexity_of([1 / 2, 1 / 8]) == pytest.approx((2 * 8) ** (1 / 2))  # 4; the harmonic mean is 3.2
    assert perplexity_of([1 / 5, 3 / 5, 1 / 5, 3 / 5]) == pytest.approx((5 * 5 / 3 * 5 * 5 / 3) ** (1 / 4))


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=20), st.integers(2, 5))
def test_texts_of_different_lengths_compare(probabilities: list[float], times: int) -> None:
    assert perplexity_of(probabilities * times) == pytest.approx(perplexity_of(probabilities))


def test_nats_bits_and_perplexity_are_one_figure() -> None:
    assert to_perplexity(math.log(8)) == pytest.approx(8)
    assert to_bits(math.log(8)) == pytest.approx(3)
    assert to_perplexity(1e4) == math.inf
    assert to_perplexity(math.inf) == math.inf


def test_the_parts_of_a_text_add_up() -> None:
    probabilities, ids = np.array([0.5, 0.25, 0.125, 1.0]), np.array([1, UNKNOWN_ID, 3, UNKNOWN_ID])
    parts = [(np.log(probabilities[:1]), ids[:1]), (np.log(probabilities[1:]), ids[1:])]
    result = Perplexity.of(parts, CHARACTERS)
    assert result.nats == pytest.approx(6 * math.log(2) / 4)
    assert result.perplexity == pytest.approx(math.prod(probabilities) ** (-1 / 4))
    assert result.bits == pytest.approx(1.5)
    assert (result.characters, result.unknown) == (4, 2)


def test_many_small_numbers_are_added_in_double_precision() -> None:
    scores = np.full(2**20, -0.1, dtype=np.float32)
    result = Perplexity.of([(scores, np.ones(2**20, dtype=np.uint8))] * 20, CHARACTERS)
    assert result.nats == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(CorpusError, match="no character to score"):
        Perplexity.of([], CHARACTERS)


@given(TEXTS)
def test_of_bytes_it_is_the_mean_over_code_points(text: str) -> None:
    ids = BYTES.encode(text)
    result = Perplexity.of([(np.full(len(ids), -1.0), ids)], BYTES)
    assert result.characters == len(text)
    assert result.nats == pytest.approx(len(text.encode()) / len(text))
    assert result.unknown == 0


@given(TEXTS, st.sampled_from([np.uint16, np.int64]))
def test_a_character_begins_where_utf_8_begins_one(text: str, dtype: type) -> None:
    sizes = [len(character.encode()) for character in text]
    expected = [start for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False)]
    ids = BYTES.encode(text).astype(dtype)
    assert np.flatnonzero(begins_character(ids, BYTES)).tolist() == expected
    assert first_character(ids, BYTES) == sizes[0]


def test_every_symbol_of_a_character_vocabulary_is_a_character() -> None:
    ids = CHARACTERS.encode("é?a")
    assert begins_character(ids, CHARACTERS).all()
    assert first_character(ids, CHARACTERS) == 1
    assert first_character(ids[:1], CHARACTERS) == 1
