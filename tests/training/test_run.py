from dataclasses import replace

import pytest
from charlm_training.corpus import Corpus
from charlm_training.errors import CorpusError
from charlm_training.recipes import TrainingConfig, small
from charlm_training.run import begin, check_length, run, score
from charlm_training.vocabulary import Vocabulary
from hypothesis import given
from hypothesis import strategies as st


def test_a_checkpoint_says_where_it_comes_from(corpus: Corpus, tiny: TrainingConfig) -> None:
    checkpoint = run(corpus, "tiny", tiny, lambda _: None)
    assert checkpoint.corpus.sha256 == corpus.sha256
    assert (checkpoint.recipe, checkpoint.training) == ("tiny", tiny)
    assert checkpoint.validation.carried.characters == len(corpus.validation_text)


def test_its_own_corpus_is_scored_where_it_was_not_seen(corpus: Corpus, tiny: TrainingConfig) -> None:
    checkpoint = run(corpus, "tiny", replace(tiny, steps=2), lambda _: None)
    assert score(checkpoint, corpus) == ("validation", checkpoint.validation.fresh)
    assert score(checkpoint, Corpus("more", corpus.text + "!"))[0] == "whole"


def test_what_only_validation_text_holds_is_unknown(corpus: Corpus, tiny: TrainingConfig) -> None:
    checkpoint = run(Corpus("x", corpus.text + "##"), "tiny", replace(tiny, steps=2), lambda _: None)
    assert "#" not in checkpoint.vocabulary.characters
    assert checkpoint.validation.fresh.unknown == 2


def test_a_text_that_fills_no_step_is_told_the_length_it_needs(tiny: TrainingConfig) -> None:
    with pytest.raises(CorpusError, match=r"has 161 characters; this recipe needs 162 \(batch 8 x time 16\)"):
        run(Corpus("short", "a" * 161), "tiny", tiny, lambda _: None)


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_length_asked_for_is_just_enough(batch: int, time: int) -> None:
    config = replace(small(), batch=batch, time=time)
    least = next(n for n in range(5000) if _is_enough(n, config))
    assert all(not _is_enough(n, config) for n in (least - 1, 0))
    corpus = Corpus("just enough", "a" * least)
    assert len(corpus.training_text) >= config.least_training_characters
    assert len(corpus.validation_text) >= 2
    before = Corpus("not enough", "a" * (least - 1))
    assert len(before.training_text) < config.least_training_characters or len(before.validation_text) < 2


@pytest.mark.parametrize("length", [11, 162])
def test_the_shortest_texts_train(tiny: TrainingConfig, length: int) -> None:
    config = replace(tiny, steps=2) if length > 11 else replace(tiny, steps=2, batch=1, time=1)
    checkpoint = run(Corpus("short", "ab" * (length // 2) + "a" * (length % 2)), "tiny", config, lambda _: None)
    assert checkpoint.validation.fresh.characters >= 1


def test_an_empty_prompt_is_a_line_feed_or_else_the_most_frequent_character() -> None:
    assert begin(Vocabulary.from_text("aaab\n")) == "\n"
    assert begin(Vocabulary.from_text("abbb")) == "b"


def _is_enough(length: int, config: TrainingConfig) -> bool:
    try:
        check_length(Corpus("any", "a" * length), config)
    except CorpusError:
        return False
    return True
