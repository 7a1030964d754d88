import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.data.corpus import TIME_MACHINE, data_folder
from segue_training.data.d2l_text import PREPARATIONS
from segue_training.data.encoding import encode_corpus
from segue_training.recipes import d2l_lstm


def by_lines(text: str) -> str:
    """The zh edition's code."""
    return "".join(re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in text.split("\n"))


def at_once(text: str) -> str:
    """The en edition's code."""
    return re.sub("[^A-Za-z]+", " ", text).lower()


@pytest.mark.parametrize(("preparation", "expected"), [("d2l-zh", by_lines), ("d2l-en", at_once)])
@given(blocks=st.lists(st.text("abYZ  \n\n.é", max_size=6), max_size=6))
def test_blocks_are_prepared_as_d2l_prepares_the_whole(
    preparation: str, expected: Callable[[str], str], blocks: list[str]
) -> None:
    assert "".join(PREPARATIONS[preparation](blocks)) == expected("".join(blocks))


def test_words_at_the_ends_of_lines_grow_together_in_one_edition() -> None:
    blocks = ["expounding to him\n", "  was grey--\n\n2 eyes."]
    assert "".join(PREPARATIONS["d2l-zh"](blocks)) == "expounding to himwas greyeyes"
    assert "".join(PREPARATIONS["d2l-en"](blocks)) == "expounding to him was grey eyes "


@pytest.mark.parametrize(("preparation", "characters"), [("d2l-zh", 170_580), ("d2l-en", 173_428)])
def test_the_time_machine_has_the_published_counts(preparation: str, characters: int) -> None:
    if not (data_folder() / TIME_MACHINE.file).exists():
        pytest.skip(f"the published counts need {TIME_MACHINE.file} in $SEGUE_DATA or ~/.cache/segue")
    corpus = encode_corpus("time-machine", replace(d2l_lstm(), preparation=preparation))
    assert corpus.characters == characters
    assert (len(corpus.vocabulary), len(corpus.training)) == (28, 10_000)
    counts = Counter(corpus.vocabulary.decode(corpus.ids[: characters * 9 // 10]))
    assert corpus.vocabulary.characters == ("<unk>", *sorted(counts, key=counts.__getitem__, reverse=True))
    assert set(counts) == set(" abcdefghijklmnopqrstuvwxyz")
