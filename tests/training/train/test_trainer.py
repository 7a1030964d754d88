import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from segue_training.data.batches import epoch
from segue_training.errors import ConfigurationError, Diverged
from segue_training.evaluation.evaluate import nats_in_rows, perplexity
from segue_training.models import LanguageModel
from segue_training.recipes import TrainingConfig, d2l_lstm
from segue_training.text.vocabulary import Vocabulary
from segue_training.train import gradients
from segue_training.train import trainer as trainer_module
from segue_training.train.distributed import ProcessGroup
from segue_training.train.gradients import reset_rows
from segue_training.train.train_state import TrainState
from segue_training.train.trainer import (
    Progress,
    Trained,
    Trainer,
    TrainingData,
    learning_rate,
    new_model,
    train,
)
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW


@pytest.fixture
def vocabulary(text: str) -> Vocabulary:
    return Vocabulary.from_text(text)


@pytest.fixture
def data(text: str, vocabulary: Vocabulary) -> TrainingData:
    ids = vocabulary.encode(text).astype(np.uint8)
    split = len(ids) * 9 // 10
    return TrainingData(ids[:split], ids[split:], len(vocabulary), int(vocabulary.encode("\n")[0]))


def run(data: TrainingData, config: TrainingConfig) -> tuple[Trained, list[Progress]]:
    reports: list[Progress] = []
    return train(data, config, reports.append), reports


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data: TrainingData, tiny: TrainingConfig) -> None:
    config = replace(tiny, output_dropout=0.2, steps=12)
    first, again, other = (run(data, replace(config, seed=seed))[0] for seed in (1, 1, 2))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    assert not torch.equal(first.model.get_parameter("output.weight"), other.model.get_parameter("output.weight"))


def test_training_leaves_the_global_random_state_alone(data: TrainingData, tiny: TrainingConfig) -> None:
    before = torch.get_rng_state()
    run(data, replace(tiny, output_dropout=0.2, steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_training_learns_what_validation_text_shares(
    data: TrainingData, vocabulary: Vocabulary, tiny: TrainingConfig
) -> None:
    trained, reports = run(data, replace(tiny, steps=200))
    assert reports[0].loss == pytest.approx(math.log(data.vocabulary_size), rel=0.1)
    assert perplexity(trained.model, data.validation, vocabulary).nats < 1.0 < reports[0].loss / 2
    assert [report.step for report in reports if report.evaluation] == [67, 134, 200]


@pytest.mark.parametrize("architecture", ["rnn", "gru", "gru-reset-before", "mlp"])
def test_every_architecture_learns(data: TrainingData, tiny: TrainingConfig, architecture: str) -> None:
    _, reports = run(data, replace(tiny, steps=100, architecture=architecture))
    assert reports[-1].loss < reports[0].loss / 2


def test_the_history_says_what_was_read_and_what_it_cost(data: TrainingData, tiny: TrainingConfig) -> None:
    trained, reports = run(data, tiny)
    losses = [report.loss for report in reports]
    assert [e.step for e in trained.history] == [20, 40, 60]
    for evaluation, (start, end) in zip(trained.history, [(0, 20), (20, 40), (40, 60)], strict=True):
        assert evaluation.training == pytest.approx(sum(losses[start:end]) / 20)
        assert evaluation.learning_rate == learning_rate(end - 1, tiny)
    assert trained.history[0].symbols <= 20 * tiny.batch * tiny.time
    assert [e.seconds for e in trained.history] == sorted(e.seconds for e in trained.history)


def measuring(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> list[torch.Tensor]:
    """Make validation return `values`; return the output biases at each evaluation."""
    measured, snapshots = iter(values), list[torch.Tensor]()

    def measure(model: LanguageModel, *_: object, **__: object) -> float:
        snapshots.append(model.get_parameter("output.bias").detach().clone())
        return next(measured)

    monkeypatch.setattr(trainer_module, "nats_in_rows", measure)
    return snapshots


@pytest.mark.parametrize(("keep", "step"), [("best", 40), ("last", 60)])
def test_the_weights_asked_for_are_kept(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch, keep: str, step: int
) -> None:
    snapshots = measuring(monkeypatch, [3.0, 2.0, 2.5])
    trained, _ = run(data, replace(tiny, keep=keep))
    assert trained.steps == step
    assert torch.equal(trained.model.get_parameter("output.bias"), snapshots[step // 20 - 1])


def test_training_stops_when_validation_has_not_gained_for_long(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch, [3.0, 2.0, 2.5, 1.5, 1.6, 1.7, 1.0])
    trained, reports = run(data, replace(tiny, evaluations=10, patience=2))
    assert (trained.steps, reports[-1].step, len(trained.history)) == (24, 36, 6)


def test_measuring_progress_changes_nothing(data: TrainingData, tiny: TrainingConfig) -> None:
    rarely, often = (run(data, replace(tiny, output_dropout=0.2, evaluations=n))[1] for n in (1, 30))
    assert [report.loss for report in rarely] == [report.loss for report in often]


def test_resetting_zeroes_the_rows_asked_for_and_no_other() -> None:
    state = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    for before, after in zip(state, reset_rows(state, torch.tensor([1.0, 0.0, 1.0, 0.0])), strict=True):
        assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
        assert not after[:, [1, 3]].any()


def test_a_model_that_was_reset_is_not_lost_in_the_zero_state(
    data: TrainingData, vocabulary: Vocabulary, tiny: TrainingConfig
) -> None:
    trained, _ = run(data, replace(tiny, steps=200, reset_rate=0.05))
    from_zero = nats_in_rows(trained.model, data.validation, rows=len(data.validation) // 20)
    assert from_zero < perplexity(trained.model, data.validation, vocabulary).nats + 0.5


def test_unknown_characters_get_the_probability_they_are_shown_with(data: TrainingData, tiny: TrainingConfig) -> None:
    trained, _ = run(data, replace(tiny, steps=200, unknown_rate=0.1))
    with torch.no_grad():
        ids = torch.from_numpy(data.training[None, :1000].astype(np.int64))
        logits, *_ = trained.model(ids, *trained.model.zero_state())
    assert logits[0].softmax(1)[:, 0].mean() == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch, broken: float
) -> None:
    updates: list[int] = []
    monkeypatch.setattr(AdamW, "step", lambda *_: updates.append(1))
    real = gradients.cross_entropy
    monkeypatch.setattr(
        gradients, "cross_entropy", lambda *a, **k: real(*a, **k) * (broken if len(updates) == 3 else 1.0)
    )
    with pytest.raises(Diverged, match=rf"loss of step 4 is {broken}: set a learning_rate below 0\.02"):
        run(data, tiny)
    assert len(updates) == 3


def test_a_gradient_that_is_not_finite_stops_before_the_update(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[int] = []
    monkeypatch.setattr(AdamW, "step", lambda *_: updates.append(1))
    real = nn.utils.clip_grad_norm_

    def broken(weights: object, clip: float) -> torch.Tensor:
        norm = real(weights, clip)  # type: ignore[arg-type]
        return norm * (math.nan if len(updates) == 3 else 1.0)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", broken)
    with pytest.raises(Diverged, match="gradient of step 4 is nan"):
        run(data, tiny)
    assert len(updates) == 3


def test_weights_that_no_measurement_found_finite_are_not_returned(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "nats_in_rows", lambda *_, **__: math.nan)
    with pytest.raises(Diverged, match="the validation loss after step 20 is nan"):
        run(data, tiny)


def test_the_learning_rate_warms_up_and_ends_at_zero(tiny: TrainingConfig) -> None:
    rates = [learning_rate(step, tiny) for step in range(tiny.steps + 1)]
    assert all(a < b for a, b in pairwise(rates[:5]))
    assert all(a > b for a, b in pairwise(rates[6:]))
    assert max(rates) == pytest.approx(tiny.learning_rate, rel=0.1)
    assert rates[-1] == pytest.approx(0)


def test_the_learning_rate_of_d2l_is_constant() -> None:
    assert {learning_rate(step, d2l_lstm()) for step in range(4000)} == {1.0}


def test_one_hot_vectors_are_not_trained(data: TrainingData, tiny: TrainingConfig) -> None:
    trained, _ = run(data, replace(tiny, embedding=0, optimizer="sgd", learning_rate=1.0, steps=5))
    size = trained.model.config.vocabulary_size
    assert torch.equal(trained.model.get_parameter("embedding.weight"), torch.eye(size))


def test_the_model_of_d2l_has_its_number_of_parameters() -> None:
    """299,036 with one bias for each gate (28 symbols); PyTorch's layers have two."""
    for implementation, second_biases in (("scratch", 0), ("fused", 4 * 256)):
        model = new_model(28, replace(d2l_lstm(), implementation=implementation))
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        assert trained - second_biases == 299_036


def test_the_state_is_carried_from_step_to_step(data: TrainingData, tiny: TrainingConfig) -> None:
    """With almost constant weights, the losses equal those of whole rows read at once."""
    still = replace(tiny, learning_rate=1e-9, weight_decay=0.0, reset_rate=0.0, unknown_rate=0.0, steps=8)
    trained, reports = run(data, still)
    minibatches = list(epoch(data.training, still, 0, data.line_feed))[:8]
    ids, targets = (torch.cat(parts, 1) for parts in zip(*((m.ids_BT, m.targets_BT) for m in minibatches), strict=True))
    with torch.no_grad():
        logits, *_ = trained.model(ids, *trained.model.zero_state(still.batch))
    nats = cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    expected = nats.view(still.batch, 8, still.time).mean((0, 2)).tolist()
    assert [report.loss for report in reports] == pytest.approx(expected, rel=1e-5)


class Stopped(Exception):  # noqa: N818
    pass


class StopAt:
    """Takes the train state after `step` and ends the run there."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.train_state: TrainState | None = None

    def __call__(self, run: Trainer) -> None:
        if run.progression.step == self._step:
            self.train_state = run.train_state()
            raise Stopped


def resumed(data: TrainingData, config: TrainingConfig, step: int, report: Callable[[Progress], None]) -> Trained:
    """Train to `step` with one trainer, and on from its state with another."""
    stop = StopAt(step)
    with pytest.raises(Stopped):
        Trainer(data, config).train(report, stop)
    assert stop.train_state is not None
    again = Trainer(data, config)
    again.load_train_state(stop.train_state)
    return again.train(report, lambda _: None)


VARIANTS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "learning_rate": 1.0},
    "random": {"partition": "random"},
    "documents": {"documents": "lines"},
    "scratch": {"implementation": "scratch"},
    "gru": {"architecture": "gru"},
    "mlp": {"architecture": "mlp"},
}
DROPPED = {"input_dropout": 0.1, "layer_dropout": 0.2, "output_dropout": 0.1, "weight_dropout": 0.3, "layers": 2}


@pytest.mark.parametrize(("variant", "step"), [("adamw", 1), ("adamw", 20), *((variant, 37) for variant in VARIANTS)])
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(
    data: TrainingData, tiny: TrainingConfig, variant: str, step: int
) -> None:
    """Weights, losses, figures; at steps within an epoch, after an evaluation and in the second epoch."""
    dropped = DROPPED if variant in ("adamw", "sgd", "gru", "random", "documents") else {}
    config = replace(tiny, **{**dropped, **VARIANTS[variant]}, reset_rate=0.2, unknown_rate=0.1)  # type: ignore[arg-type]
    whole, losses = run(data, config)
    reports: list[Progress] = []
    trained = resumed(data, config, step, reports.append)
    assert [report.loss for report in reports] == [report.loss for report in losses]
    assert [e.validation for e in trained.history] == [e.validation for e in whole.history]
    assert trained.steps == whole.steps
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[name], weight), name


def test_the_best_weights_are_kept_also_where_at_first_the_last_were_wanted(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of step 20 were the best, but are lost."""
    measuring(monkeypatch, [1.0, 3.0, 2.0])
    stop, wanted = StopAt(41), replace(tiny, keep="last")
    with pytest.raises(Stopped):
        Trainer(data, wanted).train(lambda _: None, stop)
    assert stop.train_state is not None
    again = Trainer(data, replace(wanted, keep="best"))
    again.load_train_state(stop.train_state)
    assert again.train(lambda _: None, lambda _: None).steps == 60


def test_the_best_weights_survive_a_resumption(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (best, *_) = measuring(monkeypatch, [2.0, 3.0, 3.5]), run(data, tiny)
    measuring(monkeypatch, [2.0, 3.0, 3.5])
    trained = resumed(data, tiny, 25, lambda _: None)
    assert trained.steps == 20
    assert torch.equal(trained.model.get_parameter("output.bias"), best[0])


def test_a_train_state_holds_no_more_than_it_must(data: TrainingData, tiny: TrainingConfig) -> None:
    stop = StopAt(3)
    with pytest.raises(Stopped):
        Trainer(data, tiny).train(lambda _: None, stop)
    assert stop.train_state is not None
    kinds = {name.split("/")[0] for name in stop.train_state.tensors}
    assert kinds == {"model", "best", "state", "optimizer"}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_short_precision_learns_nearly_as_well(data: TrainingData, tiny: TrainingConfig, precision: str) -> None:
    config = replace(tiny, implementation="scratch")
    exact, short = (run(data, replace(config, precision=p))[1][-1].loss for p in ("float32", precision))
    assert short == pytest.approx(exact, rel=0.1)


def test_a_short_precision_is_refused_where_the_fused_layers_have_none(
    data: TrainingData, tiny: TrainingConfig
) -> None:
    with pytest.raises(ConfigurationError, match="'bfloat16', which the fused layers support only on a GPU"):
        Trainer(data, replace(tiny, precision="bfloat16"))


def test_a_short_precision_needs_no_gpu_where_no_layer_is_fused(data: TrainingData, tiny: TrainingConfig) -> None:
    _, reports = run(data, replace(tiny, precision="bfloat16", architecture="mlp"))
    assert reports[-1].loss < reports[0].loss / 2


def test_fewer_documents_than_rows_cannot_be_shared_out(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessGroup, "share", lambda _, model: model)
    alone = Trainer(data, replace(tiny, documents="lines", batch=2**14), ProcessGroup(0, 2))
    with pytest.raises(ConfigurationError, match=r"has fewer documents, .* among 2 processes: set a smaller batch"):
        alone.train(lambda _: None, lambda _: None)


def test_progress_is_measured_on_whole_documents(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[np.ndarray] = []
    monkeypatch.setattr(trainer_module, "nats_in_documents", lambda _, ids, __: measured.append(ids) or 1.0)
    ends = np.flatnonzero(data.validation == data.line_feed)
    for watched, expected in ((ends[1] + 3, ends[1] + 1), (ends[0], ends[0])):
        monkeypatch.setattr(trainer_module, "WATCHED", watched)
        run(data, replace(tiny, documents="lines", steps=1))
        assert len(measured.pop()) == expected
