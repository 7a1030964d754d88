import gzip
import lzma
import math
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.evaluation import baselines as module
from segue_training.evaluation import compressors
from segue_training.evaluation.baselines import Baseline, baselines
from segue_training.evaluation.compressors import COMPRESSORS, compressed_nats, utf_8
from segue_training.evaluation.ngram import NgramModel
from segue_training.text.vocabulary import Vocabulary

TRAINING = "the cat sat on the mat; the é did not.\n" * 40
TEXT = "éthe mat sat on the cat\nand not the é\n" * 5
CHARACTERS = Vocabulary.from_text(TRAINING)
BYTES = Vocabulary.of_bytes()
NOTHING = np.zeros(0, dtype=np.uint8)


def named(found: tuple[Baseline, ...]) -> dict[str, float]:
    return {baseline.name: baseline.nats for baseline in found}


def encoded(vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    return vocabulary.encode(TRAINING).astype(np.uint16), vocabulary.encode(TEXT).astype(np.uint16)


def test_all_rivals_are_there_in_their_order() -> None:
    found = baselines(*encoded(CHARACTERS), CHARACTERS)
    orders = [f"{n}-gram" for n in range(1, 9)]
    assert [baseline.name for baseline in found] == ["uniform", *orders, "gzip -9", "xz -9e"]
    assert found[0].perplexity == pytest.approx(len(CHARACTERS))
    assert found[0].bits == pytest.approx(math.log2(len(CHARACTERS)))
    assert named(found)["5-gram"] < named(found)["1-gram"] < named(found)["uniform"]


def test_without_a_training_text_no_n_gram_model_can_be_fitted() -> None:
    _, text = encoded(CHARACTERS)
    found = named(baselines(NOTHING, text, CHARACTERS))
    assert list(found) == ["uniform", *COMPRESSORS]
    assert found["gzip -9"] == pytest.approx(len(gzip.compress(TEXT.encode(), 9)) * 8 * math.log(2) / len(TEXT))


def test_the_n_gram_figures_are_means_over_all_but_the_first_character() -> None:
    training, text = encoded(CHARACTERS)
    scores = NgramModel.fit(training, 8, len(CHARACTERS)).log_probabilities(text)
    found = named(baselines(training, text, CHARACTERS))
    assert [found[f"{n}-gram"] for n in range(1, 9)] == pytest.approx(-scores.mean(axis=1))


def test_of_bytes_nats_are_spread_over_code_points() -> None:
    training, text = encoded(BYTES)
    found = named(baselines(training, text, BYTES))
    scores = NgramModel.fit(training, 8, len(BYTES)).log_probabilities(text)[:, 1:]  # the second byte of the first é
    assert found["3-gram"] == pytest.approx(-scores[2].sum() / (len(TEXT) - 1))
    assert found["uniform"] == pytest.approx(math.log(257) * (len(TEXT.encode()) - 2) / (len(TEXT) - 1))
    of_characters = named(baselines(*encoded(CHARACTERS), CHARACTERS))
    assert found["gzip -9"] == pytest.approx(of_characters["gzip -9"], rel=0.05)  # where `a` and `n`, `d` are known


def test_of_documents_the_first_character_is_scored_too() -> None:
    training, text = encoded(CHARACTERS)
    line_feed = CHARACTERS.encode("\n")
    scores = NgramModel.fit(training, 8, len(CHARACTERS)).log_probabilities(np.concatenate([line_feed, text]))
    found = named(baselines(training, text, CHARACTERS, "lines"))
    assert found["4-gram"] == pytest.approx(-scores[3].mean())
    assert found["uniform"] == pytest.approx(math.log(len(CHARACTERS)))


def test_only_the_end_of_a_long_training_text_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_TRAINING", 390)
    training, text = encoded(CHARACTERS)
    assert baselines(training, text, CHARACTERS) == baselines(training[-390:], text, CHARACTERS)


@pytest.mark.parametrize("vocabulary", [CHARACTERS, BYTES])
def test_compressors_are_charged_for_what_the_text_adds(vocabulary: Vocabulary) -> None:
    text = TRAINING[:100]
    both, before = (TRAINING + text).encode(), TRAINING.encode()
    sizes = {
        "gzip -9": len(gzip.compress(both, 9)) - len(gzip.compress(before, 9)),
        "xz -9e": len(lzma.compress(both, preset=9 | lzma.PRESET_EXTREME))
        - len(lzma.compress(before, preset=9 | lzma.PRESET_EXTREME)),
    }
    for name, size in sizes.items():
        ids = vocabulary.encode(TRAINING), vocabulary.encode(text)
        assert compressed_nats(name, *ids, vocabulary) == pytest.approx(size * 8 * math.log(2))


@pytest.mark.parametrize("command", ["gzip -9", "xz -9e"])
def test_the_names_are_what_one_would_type(command: str) -> None:
    program, level = command.split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([program, level, "-c"], input=TEXT.encode(), stdout=subprocess.PIPE, check=True)
    nats = compressed_nats(command, NOTHING, BYTES.encode(TEXT), BYTES)
    assert round(nats / 8 / math.log(2)) == len(done.stdout)


@given(st.text(alphabet="the cat\né你𝄞\U0010ffff", max_size=50), st.sampled_from([CHARACTERS, BYTES]))
def test_a_text_comes_back_as_utf_8(text: str, vocabulary: Vocabulary) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressors, "BLOCK", 7)
        found = b"".join(utf_8(vocabulary.encode(text), vocabulary)).decode()
    known = text if vocabulary is BYTES else "".join(c if c in CHARACTERS.characters else "\ufffd" for c in text)
    assert found == known


def test_a_text_of_documents_stays_as_narrow_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a long text would take eight times its size in memory."""
    seen: list[np.dtype] = []
    real = NgramModel.in_blocks
    monkeypatch.setattr(NgramModel, "in_blocks", lambda m, ids, start: seen.append(ids.dtype) or real(m, ids, start))
    baselines(*encoded(CHARACTERS), CHARACTERS, "lines")
    assert seen == [np.uint16]


@pytest.mark.parametrize("vocabulary", [CHARACTERS, BYTES])
def test_characters_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch, vocabulary: Vocabulary) -> None:
    whole = baselines(*encoded(vocabulary), vocabulary)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert baselines(*encoded(vocabulary), vocabulary) == whole
