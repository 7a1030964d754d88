import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from charlm_training import loop
from charlm_training.corpus import Corpus
from charlm_training.errors import Diverged
from charlm_training.evaluate import nats_in_rows, perplexity
from charlm_training.loop import Progress, Trained, learning_rate, new_model, reset_rows, train
from charlm_training.models import Lstm
from charlm_training.recipes import TrainingConfig, d2l_lstm
from charlm_training.vocabulary import Vocabulary
from torch.nn.functional import cross_entropy
from torch.optim import AdamW


def encoded(corpus: Corpus) -> tuple[torch.Tensor, torch.Tensor, int]:
    vocabulary = Vocabulary.from_text(corpus.training_text)
    training, validation = (
        torch.from_numpy(vocabulary.encode(text)) for text in (corpus.training_text, corpus.validation_text)
    )
    return training, validation, len(vocabulary)


def run(corpus: Corpus, config: TrainingConfig) -> tuple[Trained, list[Progress]]:
    reports: list[Progress] = []
    return train(*encoded(corpus), config, reports.append), reports


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(corpus: Corpus, tiny: TrainingConfig) -> None:
    config = replace(tiny, dropout=0.2, steps=12)
    first, again, other = (run(corpus, replace(config, seed=seed))[0] for seed in (1, 1, 2))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    assert not torch.equal(first.model.output.weight, other.model.output.weight)


def test_training_leaves_the_global_random_state_alone(corpus: Corpus, tiny: TrainingConfig) -> None:
    before = torch.get_rng_state()
    run(corpus, replace(tiny, dropout=0.2, steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_training_learns_what_validation_text_shares(corpus: Corpus, tiny: TrainingConfig) -> None:
    trained, reports = run(corpus, replace(tiny, steps=200))
    _, validation, size = encoded(corpus)
    assert reports[0].loss == pytest.approx(math.log(size), rel=0.1)
    assert perplexity(trained.model, validation).nats < 1.0 < reports[0].loss / 2
    assert [report.step for report in reports if report.validation] == [67, 134, 200]


def test_the_best_weights_are_kept_and_not_the_last(
    corpus: Corpus, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([3.0, 2.0, 2.5])
    snapshots: list[torch.Tensor] = []

    def measure(model: Lstm, *_: object, **__: object) -> float:
        snapshots.append(model.output.bias.detach().clone())
        return next(measured)

    monkeypatch.setattr(loop, "nats_in_rows", measure)
    trained, _ = run(corpus, tiny)
    assert trained.steps == 40
    assert torch.equal(trained.model.output.bias, snapshots[1])


def test_measuring_progress_changes_nothing(corpus: Corpus, tiny: TrainingConfig) -> None:
    rarely, often = (run(corpus, replace(tiny, dropout=0.2, evaluations=n))[1] for n in (1, 30))
    assert [report.loss for report in rarely] == [report.loss for report in often]


def test_resetting_zeroes_the_rows_asked_for_and_no_other() -> None:
    state = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    for before, after in zip(state, reset_rows(state, torch.tensor([1.0, 0.0, 1.0, 0.0])), strict=True):
        assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
        assert not after[:, [1, 3]].any()


def test_a_model_that_was_reset_is_not_lost_in_the_zero_state(corpus: Corpus, tiny: TrainingConfig) -> None:
    trained, _ = run(corpus, replace(tiny, steps=200, reset_rate=0.05))
    _, validation, _ = encoded(corpus)
    from_zero = nats_in_rows(trained.model, validation, rows=len(validation) // 20)
    assert from_zero < perplexity(trained.model, validation).nats + 0.5


def test_unknown_characters_get_the_probability_they_are_shown_with(corpus: Corpus, tiny: TrainingConfig) -> None:
    trained, _ = run(corpus, replace(tiny, steps=200, unknown_rate=0.1))
    training, _, _ = encoded(corpus)
    with torch.no_grad():
        logits, *_ = trained.model(training[None, :1000], *trained.model.zero_state())
    assert logits[0].softmax(1)[:, 0].mean() == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(
    corpus: Corpus, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch, broken: float
) -> None:
    updates: list[int] = []
    monkeypatch.setattr(AdamW, "step", lambda *_: updates.append(1))
    real = loop.cross_entropy
    monkeypatch.setattr(loop, "cross_entropy", lambda *a: real(*a) * (broken if len(updates) == 3 else 1.0))
    with pytest.raises(Diverged, match=rf"step 4 is {broken}: set a learning_rate below 0\.02"):
        run(corpus, tiny)
    assert len(updates) == 3


def test_weights_that_no_measurement_found_finite_are_not_returned(
    corpus: Corpus, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "nats_in_rows", lambda *_, **__: math.nan)
    with pytest.raises(Diverged, match="the validation loss is"):
        run(corpus, tiny)


def test_the_learning_rate_warms_up_and_ends_at_zero(tiny: TrainingConfig) -> None:
    rates = [learning_rate(step, tiny) for step in range(tiny.steps + 1)]
    assert all(a < b for a, b in pairwise(rates[:5]))
    assert all(a > b for a, b in pairwise(rates[6:]))
    assert max(rates) == pytest.approx(tiny.learning_rate, rel=0.1)
    assert rates[-1] == pytest.approx(0)


def test_the_learning_rate_of_d2l_is_constant() -> None:
    assert {learning_rate(step, d2l_lstm()) for step in range(4000)} == {1.0}


def test_one_hot_vectors_are_not_trained(corpus: Corpus, tiny: TrainingConfig) -> None:
    trained, _ = run(corpus, replace(tiny, embedding=0, optimizer="sgd", learning_rate=1.0, steps=5))
    size = trained.model.config.vocabulary_size
    assert torch.equal(trained.model.embedding.weight, torch.eye(size))


def test_the_model_of_d2l_has_its_number_of_parameters() -> None:
    """299,036 with one bias for each gate (28 symbols); PyTorch has two."""
    model = new_model(28, d2l_lstm())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert trained - 4 * 256 == 299_036


def test_the_state_is_carried_from_step_to_step(corpus: Corpus, tiny: TrainingConfig) -> None:
    """With weights that all but stand still, the losses are those of whole rows read at once."""
    still = replace(tiny, learning_rate=1e-9, weight_decay=0.0, reset_rate=0.0, unknown_rate=0.0, steps=8)
    trained, reports = run(corpus, still)
    training, _, _ = encoded(corpus)
    generator = torch.Generator().manual_seed(still.seed)
    offset = int(torch.randint(still.time, (), generator=generator))
    columns = (len(training) - offset - 1) // still.batch
    rows = training[offset : offset + still.batch * columns].view(still.batch, columns)
    read = 8 * still.time
    with torch.no_grad():
        logits, *_ = trained.model(rows[:, :read], *trained.model.zero_state(still.batch))
    nats = cross_entropy(logits.transpose(1, 2), rows[:, 1 : read + 1], reduction="none")
    expected = nats.view(still.batch, 8, still.time).mean((0, 2)).tolist()
    assert [report.loss for report in reports] == pytest.approx(expected, rel=1e-5)
