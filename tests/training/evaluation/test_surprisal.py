import math

import numpy as np
import pytest
import torch
from segue_training.evaluation.evaluate import perplexity
from segue_training.evaluation.surprisal import passage, surprisals
from segue_training.models import LanguageModel, ModelConfig, build_model
from segue_training.text.vocabulary import Vocabulary

LETTERS = Vocabulary(("<unk>", "\n", *"abcde"))
BYTES = Vocabulary.of_bytes()
MIXED = 'naïve "漢字"\n🎉 ok é\nж'


@pytest.fixture(params=["letters", "bytes"])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    return LETTERS if request.param == "letters" else BYTES


def random_model(vocabulary: Vocabulary) -> LanguageModel:
    torch.manual_seed(5)
    model = build_model(ModelConfig(len(vocabulary), 6, 8, 1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.7)
    return model.eval()


def text_of(vocabulary: Vocabulary) -> str:
    return "abz\ncde\nbadcab" * 50 if vocabulary is LETTERS else MIXED * 20


@pytest.mark.parametrize("documents", ["none", "lines"])
def test_the_mean_is_the_texts_nats_per_character(vocabulary: Vocabulary, documents: str) -> None:
    model, ids = random_model(vocabulary), vocabulary.encode(text_of(vocabulary) + "\n")
    scored = surprisals(model, vocabulary, ids, documents=documents)  # type: ignore[arg-type]
    expected = perplexity(model, ids, vocabulary, documents)  # type: ignore[arg-type]
    assert len(scored) == expected.characters
    assert np.mean([s.nats for s in scored]) == pytest.approx(expected.nats, rel=1e-5)


def test_the_characters_are_those_of_the_text(vocabulary: Vocabulary) -> None:
    text = text_of(vocabulary)
    ids, model = vocabulary.encode(text), random_model(vocabulary)
    shown = text.replace("z", "?")
    whole = "".join(s.character for s in surprisals(model, vocabulary, ids)).replace("<unk>", "?")
    lines = "".join(s.character for s in surprisals(model, vocabulary, ids, documents="lines")).replace("<unk>", "?")
    assert (whole, lines) == (shown[1:], shown)


def test_a_character_and_all_that_might_have_come_instead_have_probability_1(vocabulary: Vocabulary) -> None:
    ids, model = vocabulary.encode(text_of(vocabulary)[:60]), random_model(vocabulary)
    if vocabulary is BYTES:
        with torch.no_grad():
            model.get_parameter("output.bias")[0] = -math.inf  # <unk>, which is no byte
    for scored in surprisals(model, vocabulary, ids, alternatives=2000):
        assert scored.probability + sum(a.probability for a in scored.alternatives) == pytest.approx(1, abs=1e-6)
        assert scored.character not in {a.text for a in scored.alternatives}
        probabilities = [a.probability for a in scored.alternatives]
        assert probabilities == sorted(probabilities, reverse=True)


def test_alternatives_to_a_letter_are_the_likeliest_others() -> None:
    model, ids = random_model(LETTERS), LETTERS.encode("abcd")
    logits, *_ = model(torch.from_numpy(ids)[None], *model.zero_state())
    probabilities = logits[0, 2].softmax(0).tolist()
    others = sorted((p, LETTERS.characters[i]) for i, p in enumerate(probabilities) if LETTERS.characters[i] != "d")
    alternatives = surprisals(model, LETTERS, ids, alternatives=2)[2].alternatives
    assert [a.text for a in alternatives] == [name for _, name in others[:-3:-1]]


def test_alternatives_to_a_character_of_several_bytes_are_characters_or_their_first_bytes() -> None:
    scored = surprisals(random_model(BYTES), BYTES, BYTES.encode("aé"), alternatives=2000)[0]
    texts = {a.text for a in scored.alternatives}
    assert {"b", "è", "E2 …"} <= texts
    assert "C3 …" not in texts  # é begins with it, so alternatives after C3 are listed singly


def test_a_certain_model_is_not_surprised() -> None:
    model = random_model(LETTERS)
    with torch.no_grad():
        model.get_parameter("output.bias")[2] = 1000.0
    assert {s.nats for s in surprisals(model, LETTERS, LETTERS.encode("aaaa"))} == {0.0}


def test_a_passage_ends_between_characters_and_between_documents() -> None:
    ids = BYTES.encode("a漢\nbé")
    assert [BYTES.decode(passage(BYTES, ids, n)) for n in (2, 3, 4, 7, 8, 9)] == [
        "a",
        "a",
        "a漢",
        "a漢\nb",
        "a漢\nbé",
        "a漢\nbé",
    ]
    assert [BYTES.decode(passage(BYTES, ids, n, "lines")) for n in (4, 6, 8)] == ["a漢", "a漢\n", "a漢\nbé"]


def test_one_character_is_read_and_nothing_is_scored(vocabulary: Vocabulary) -> None:
    assert surprisals(random_model(vocabulary), vocabulary, vocabulary.encode("a")) == ()
