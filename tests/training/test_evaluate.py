import math

import pytest
import torch
from charlm_training.evaluate import Perplexity, nats_in_rows, perplexity, score_text, validate
from charlm_training.models import Lstm, ModelConfig
from hypothesis import given, settings
from hypothesis import strategies as st

IDS = torch.randint(11, (157,), generator=torch.Generator().manual_seed(2))


def test_scoring_equals_the_cross_entropy_of_the_whole_text_at_once(model: Lstm) -> None:
    with torch.no_grad():
        logits, h, c = model(IDS[None, :-1], *model.zero_state())
    expected = logits[0].log_softmax(1)[torch.arange(156), IDS[1:]]
    log_probabilities, state = score_text(model, IDS, model.zero_state(), chunk=1000)
    torch.testing.assert_close(log_probabilities, expected)
    torch.testing.assert_close(state, (h, c))


@pytest.mark.parametrize("chunk", [1, 2, 13, 156, 157])
def test_chunks_do_not_change_the_scores(model: Lstm, chunk: int) -> None:
    whole, whole_state = score_text(model, IDS, model.zero_state(), chunk=1000)
    parts, parts_state = score_text(model, IDS, model.zero_state(), chunk=chunk)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(parts_state, whole_state)


def test_a_text_can_be_scored_in_parts(model: Lstm) -> None:
    whole, _ = score_text(model, IDS, model.zero_state())
    first, state = score_text(model, IDS[:60], model.zero_state())
    second, _ = score_text(model, IDS[59:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)


def test_one_character_is_read_and_nothing_is_scored(model: Lstm) -> None:
    log_probabilities, state = score_text(model, IDS[:1], model.zero_state())
    assert log_probabilities.shape == (0,)
    torch.testing.assert_close(state, model.zero_state())


def constant_model(logits: list[float]) -> Lstm:
    """A model that predicts the same at every place."""
    model = Lstm(ModelConfig(vocabulary_size=len(logits), embedding=2, hidden=2, layers=1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.output.bias.copy_(torch.tensor(logits))
    return model


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 300))
def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(size: int) -> None:
    result = perplexity(constant_model([0.0] * size), torch.arange(50) % size)
    assert result.perplexity == pytest.approx(size, rel=1e-5)
    assert result.bits == pytest.approx(math.log2(size), rel=1e-5)


def test_a_model_that_is_certain_has_perplexity_one_if_right_and_infinite_if_wrong() -> None:
    certain = constant_model([-math.inf, -math.inf, 0.0])
    assert perplexity(certain, torch.full((50,), 2)).perplexity == 1
    assert perplexity(certain, torch.full((50,), 1)).perplexity == math.inf


def test_perplexity_is_the_geometric_mean_of_the_inverse_probabilities() -> None:
    model = constant_model([0.0, math.log(3), 0.0])  # probabilities 1/5, 3/5, 1/5
    result = perplexity(model, torch.tensor([0, 1, 2, 1, 0]))
    assert result.perplexity == pytest.approx((5 / 3 * 5 * 5 / 3 * 5) ** (1 / 4), rel=1e-6)
    assert (result.characters, result.unknown) == (4, 1)


def test_validation_is_scored_from_zero_and_from_the_end_of_the_training_text(model: Lstm) -> None:
    training, validation = IDS[:100], IDS[100:]
    result = validate(model, training, validation)
    whole, _ = score_text(model, IDS, model.zero_state())
    assert result.fresh == perplexity(model, validation)
    assert result.carried.nats == pytest.approx(-float(whole[99:].mean()), rel=1e-5)
    assert (result.fresh.characters, result.carried.characters) == (56, 57)


def test_rows_in_parallel_are_a_mean_over_texts_from_zero(model: Lstm) -> None:
    rows = [IDS[0:53], IDS[52:105], IDS[104:157]]
    expected = sum(perplexity(model, row).nats for row in rows) / 3
    assert nats_in_rows(model, IDS, 3) == pytest.approx(expected, rel=1e-5)


def test_nats_beyond_what_a_float_can_exponentiate_are_infinite_perplexity() -> None:
    assert Perplexity(1e4, 1, 0).perplexity == math.inf
