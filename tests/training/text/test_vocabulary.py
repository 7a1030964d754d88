import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.text.vocabulary import UNKNOWN, Vocabulary, count_characters

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts)
def test_a_text_comes_back_from_the_ids_of_its_own_vocabulary(text: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


@given(texts, texts)
def test_encoding_agrees_with_a_dictionary(corpus: str, text: str) -> None:
    vocabulary = Vocabulary.from_text(corpus)
    ids = {character: i for i, character in enumerate(vocabulary.characters)}
    assert vocabulary.encode(text).tolist() == [ids.get(character, 0) for character in text]


@given(texts)
def test_an_id_is_one_code_point_even_outside_the_basic_plane(text: str) -> None:
    assert len(Vocabulary.from_text("🐈a").encode(text + "🐈")) == len(text) + 1


@given(st.lists(texts))
def test_counting_agrees_with_a_counter(blocks: list[str]) -> None:
    assert count_characters(blocks) == Counter("".join(blocks))


@given(texts)
def test_a_text_comes_back_from_its_bytes(text: str) -> None:
    vocabulary = Vocabulary.of_bytes()
    ids = vocabulary.encode(text)
    assert ids.tolist() == [byte + 1 for byte in text.encode()]
    assert vocabulary.decode(ids) == text


def test_a_rare_character_is_left_out() -> None:
    assert Vocabulary.from_counts({"a": 2, "b": 1, "c": 3}, 2).characters == (UNKNOWN, "c", "a")


def test_ids_follow_falling_frequency_then_code_point() -> None:
    assert Vocabulary.from_text("bbaacccz").characters == (UNKNOWN, "c", "a", "b", "z")


def test_the_word_unk_in_a_text_is_five_characters() -> None:
    vocabulary = Vocabulary.from_text("abc")
    assert vocabulary.encode("<unk>").tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("characters", [(), ("a",), (UNKNOWN, "ab"), (UNKNOWN, ""), (UNKNOWN, "a", "a")])
def test_what_is_no_bijection_is_refused(characters: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        Vocabulary(characters)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_an_id_outside_the_vocabulary_is_an_error(wrong: int) -> None:
    with pytest.raises(IndexError):
        Vocabulary.from_text("ab").decode(np.array([1, wrong]))


def test_what_the_server_shares_needs_no_torch() -> None:
    code = """
import sys
import segue_training.text.normalization, segue_training.text.vocabulary, segue_training.cli
sys.exit("torch" in sys.modules or "rich" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
