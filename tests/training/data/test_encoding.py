import gc
import hashlib
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from corpora import corpus_of
from hypothesis import given
from hypothesis import strategies as st
from segue_training.data.corpus import Corpus
from segue_training.data.encoding import EncodedCorpus, Reading, encode, encode_corpus, encode_with
from segue_training.errors import ConfigurationError, CorpusError
from segue_training.recipes import TrainingConfig, small
from segue_training.text import decoding
from segue_training.text.normalization import NORMALIZATIONS
from segue_training.text.vocabulary import Vocabulary

texts = st.text(alphabet=st.sampled_from("aab é猫🐈\n\r\u0301") | st.characters(exclude_categories=["Cs"]), max_size=60)
normalizations = st.sampled_from(sorted(NORMALIZATIONS))


def encoded(text: str, **settings: object) -> EncodedCorpus:
    return encode(corpus_of(text), replace(small(), **settings))


def decoded(corpus: EncodedCorpus) -> tuple[str, str]:
    return corpus.vocabulary.decode(corpus.training), corpus.vocabulary.decode(corpus.validation)


@given(texts, normalizations, st.integers(1, 9))
def test_the_parts_are_nine_tenths_and_one_of_the_normalized_text(text: str, normalization: str, block: int) -> None:
    with patch.object(decoding, "BLOCK", block):
        corpus = encoded(text, normalization=normalization)
    expected = NORMALIZATIONS[normalization](text.removeprefix("\ufeff"))
    split = len(expected) * 9 // 10
    vocabulary = Vocabulary.from_counts(Counter(expected[:split]))
    assert corpus.vocabulary == vocabulary
    assert corpus.characters == len(corpus.ids) == len(expected)
    assert corpus.sha256 == hashlib.sha256(expected.encode()).hexdigest()
    assert corpus.training.tolist() == vocabulary.encode(expected[:split]).tolist()
    assert corpus.validation.tolist() == vocabulary.encode(expected[split:]).tolist()


@given(texts, st.integers(1, 9))
def test_bytes_are_cut_between_code_points_and_come_back(text: str, block: int) -> None:
    with patch.object(decoding, "BLOCK", block):
        corpus = encoded(text, alphabet="bytes")
    expected = NORMALIZATIONS["line-feeds"](text.removeprefix("\ufeff"))
    split = len(expected) * 9 // 10
    assert decoded(corpus) == (expected[:split], expected[split:])
    assert corpus.characters == len(expected)
    assert corpus.ids.dtype == np.uint8


@given(st.lists(st.text(alphabet="ñ猫é", min_size=1), min_size=1), st.integers(1, 9))
def test_a_text_with_a_mark_and_carriage_returns_alone_comes_out_right(lines: list[str], block: int) -> None:
    content = "\ufeff" + "".join(line + "\r" for line in lines)
    with patch.object(decoding, "BLOCK", block):
        corpus = encoded(content, alphabet="bytes")
    assert "".join(decoded(corpus)) == "".join(line + "\n" for line in lines)


@given(st.lists(st.text(alphabet="ab\n", max_size=8), max_size=8), st.sampled_from(["characters", "bytes"]))
def test_no_document_is_cut_or_empty(files: list[str], alphabet: str) -> None:
    corpus = corpus_of(*files)
    result = encode(corpus, replace(small(), documents="lines", alphabet=alphabet))
    expected = "".join(line + "\n" for text in files for line in text.split("\n") if line)
    assert result.ids.tolist() == result.vocabulary.encode(expected).tolist()
    *lines, last = expected[: len(result.training)].splitlines(keepends=True) or [""]
    split = len(expected) * 9 // 10
    assert len("".join(lines)) <= max(split - 1, 0)
    assert len("".join(lines) + last) >= split
    assert last == "" or last.endswith("\n")
    assert len(result.training) + len(result.validation) == len(expected)
    assert "\n" in result.vocabulary.characters


@given(st.text(alphabet="aaaaabbbc\n", max_size=40), st.integers(1, 5), st.sampled_from(["none", "lines"]))
def test_rare_characters_are_unknown_but_never_the_end_of_a_document(text: str, minimum: int, documents: str) -> None:
    counts = Counter(decoded(encoded(text, documents=documents))[0])
    kept = {character for character, count in counts.items() if count >= minimum}
    if documents == "lines":
        kept.add("\n")
    if counts and not kept:
        with pytest.raises(CorpusError, match=rf"no character occurs {minimum} times .* {max(counts.values())} times"):
            encoded(text, minimum_count=minimum)
    else:
        corpus = encoded(text, documents=documents, minimum_count=minimum)
        assert set(corpus.vocabulary.characters[1:]) == kept


@pytest.mark.parametrize(("characters", "dtype"), [(255, np.uint8), (256, np.uint16), (65_536, np.uint32)])
def test_ids_take_no_more_room_than_the_vocabulary_needs(characters: int, dtype: type) -> None:
    text = "".join(map(chr, range(0x10000, 0x10000 + characters)))
    assert encoded(text * 10).ids.dtype == dtype


def test_the_training_part_can_be_shortened(text: str) -> None:
    whole, beginning = encoded(text), encoded(text, max_tokens=100)
    assert beginning.training.tolist() == whole.training[:100].tolist()
    assert beginning.validation.tolist() == whole.validation.tolist()
    assert (beginning.vocabulary, beginning.sha256) == (whole.vocabulary, whole.sha256)
    assert decoded(encoded("ab\ncd\nef\n" * 9, documents="lines", max_tokens=10))[0] == "ab\ncd\nef\n"


def test_a_text_is_encoded_for_a_model_as_it_was_for_training(text: str) -> None:
    config = replace(small(), documents="lines", normalization="nfc", alphabet="characters")
    corpus = corpus_of(text)
    trained = encode(corpus, config)
    again = encode_with(corpus, trained.vocabulary, Reading.of(config))
    assert again == trained
    assert again.validation.tolist() == trained.validation.tolist()
    other = encode_with(corpus_of("a#c"), trained.vocabulary, Reading("nfc"))
    assert trained.vocabulary.decode(other.ids) == "a<unk>c"


def test_a_source_is_encoded_by_its_name_and_field(tmp_path: Path) -> None:
    (tmp_path / "names.jsonl").write_text('{"name": "Ada"}\n{"name": "Eve"}\n', encoding="utf-8")
    corpus = encode_corpus(str(tmp_path / "names.jsonl"), replace(small(), documents="lines"), "name")
    assert (corpus.name, "".join(decoded(corpus))) == ("names", "Ada\nEve\n")


def test_documents_need_line_feeds() -> None:
    with pytest.raises(ConfigurationError, match="'letters' leaves no line feeds, which documents='lines' needs"):
        encoded("a\nb\n", documents="lines", normalization="letters")


def test_the_ids_outlive_the_encoding_and_their_file_does_not(text: str) -> None:
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    corpus = encoded(text)
    assert "".join(decoded(corpus)) == text
    with pytest.raises(ValueError, match="read-only"):
        corpus.ids[0] = 0
    del corpus
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("settings", [{"normalization": "nfc"}, {"documents": "lines"}, {"alphabet": "bytes"}])
def test_memory_does_not_grow_with_the_text(text: str, settings: dict[str, object]) -> None:
    config = replace(small(), **settings)
    mebibyte = corpus_of(text * (2**20 // len(text))).files
    encode(Corpus("first", mebibyte), config)  # fills the caches
    short, long = (_peak(Corpus("any", mebibyte * size), config) for size in (2, 10))
    assert long < short + 2**19


def _peak(corpus: Corpus, config: TrainingConfig) -> int:
    tracemalloc.start()
    try:
        encode(corpus, config)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
