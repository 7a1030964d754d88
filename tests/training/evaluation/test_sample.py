from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_training.evaluation.sample import Sampler, sample, sample_documents
from segue_training.models import Dropout, LanguageModel, ModelConfig, build_model
from segue_training.text.vocabulary import Vocabulary

LETTERS = Vocabulary(("<unk>", "\n", *"abcdefghi"))
BYTES = Vocabulary.of_bytes()


def random_model(vocabulary: Vocabulary, architecture: str = "lstm", seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    model = build_model(ModelConfig(len(vocabulary), 6, 8, 2, architecture))  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.7)
    return model


class Parrot(LanguageModel):
    """Repeats `text` whatever it reads; its state is the position in it."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        super().__init__(ModelConfig(len(vocabulary), 1, 1, 1))
        self.ids = torch.from_numpy(vocabulary.encode(text))
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids_BT: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        places = int(state[0]) + torch.arange(ids_BT.shape[1])
        logits_TV = torch.full((ids_BT.shape[1], self.config.vocabulary_size), -1e9)
        logits_TV[torch.arange(len(places)), self.ids[places % len(self.ids)]] = 0.0
        return logits_TV[None], state[0] + ids_BT.shape[1]

    def zero_state(self, rows: int = 1) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(1, rows, 1),)


@pytest.mark.parametrize("architecture", ["lstm", "gru", "rnn", "mlp"])
def test_temperature_0_takes_the_likeliest_of_the_whole_text_each_time(architecture: str) -> None:
    model = random_model(LETTERS, architecture)
    ids = LETTERS.encode("abc").tolist()
    for _ in range(20):
        with torch.no_grad():
            logits, *_ = model.eval()(torch.tensor([ids]), *model.zero_state())
        ids.append(1 + int(logits[0, -1, 1:].argmax()))
    assert sample(model, LETTERS, "abc", length=20, temperature=0) == LETTERS.decode(ids[3:])


def test_samples_are_distributed_as_the_model_says_at_each_temperature() -> None:
    model = random_model(LETTERS)
    logits, *_ = model.eval()(torch.from_numpy(LETTERS.encode("a"))[None], *model.zero_state())
    for temperature in (0.5, 1.0):
        drawn = [sample(model, LETTERS, "a", length=1, temperature=temperature, seed=s) for s in range(400)]
        expected = (logits[0, 0, 1:] / temperature).softmax(0).tolist()
        for character, probability in zip(LETTERS.characters[1:], expected, strict=True):
            tolerance = 4 * (probability * (1 - probability) / 400) ** 0.5 + 0.01
            assert drawn.count(character) / 400 == pytest.approx(probability, abs=tolerance)


def test_a_sample_is_a_function_of_its_seed_and_leaves_the_model_and_randomness_alone() -> None:
    model = random_model(LETTERS).train()
    before = torch.get_rng_state()
    first, again, other = (sample(model, LETTERS, "a", length=30, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_dropped_while_a_model_in_training_is_sampled() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(len(LETTERS), 6, 8, 1), Dropout(input=0.9, output=0.9)).train()
    first = sample(model, LETTERS, "a", length=40, temperature=0.1)
    assert first == sample(model.eval(), LETTERS, "a", length=40, temperature=0.1)


def test_unknown_is_never_drawn() -> None:
    model = random_model(LETTERS)
    with torch.no_grad():
        model.get_parameter("output.bias")[0] = 100.0
    assert "<" not in sample(model, LETTERS, "a", length=50, temperature=2.0)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.integers(0, 40))
def test_bytes_give_as_many_whole_characters_as_asked_for(seed: int, length: int) -> None:
    """With random bytes, which are rarely UTF-8."""
    text = sample(random_model(BYTES, seed=seed), BYTES, "a", length=length, temperature=3.0, seed=seed)
    assert len(text) == length
    text.encode()


@settings(deadline=None, max_examples=15)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), st.integers(1, 30))
def test_no_code_point_is_split(text: str, length: int) -> None:
    drawn = sample(Parrot(text, BYTES), BYTES, "a", length=length)
    assert drawn == (text * length)[:length]


def test_documents_begin_from_zero_and_end_at_a_line_feed() -> None:
    assert list(islice(sample_documents(Parrot("ab\ncd\n", LETTERS), LETTERS), 3)) == ["ab", "ab", "ab"]


def test_a_document_that_does_not_end_is_cut() -> None:
    assert next(sample_documents(Parrot("ab", LETTERS), LETTERS, longest=5)) == "ababa"


def test_a_sampler_of_documents_gives_whole_ones() -> None:
    sampler = Sampler.of(LETTERS, "lines")
    assert sampler(Parrot("abc\n", LETTERS), 7) == "abc\nabc"
    assert sampler(Parrot("abc\n", LETTERS), 10) == "abc\nabc"
    assert sampler(Parrot("abc\n", LETTERS), 2) == "ab"


def test_a_sampler_of_a_text_goes_on_from_a_line_feed_or_the_most_frequent_character() -> None:
    assert Sampler.of(LETTERS, "none").begin == "\n"
    assert Sampler.of(Vocabulary(("<unk>", "e", "a")), "none").begin == "e"
    model = random_model(LETTERS)
    assert Sampler.of(LETTERS, "none")(model, 9, seed=4) == sample(model, LETTERS, "\n", length=9, seed=4)
