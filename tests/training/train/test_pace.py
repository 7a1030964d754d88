"""A host that runs ahead of its device gets the same results, and waits for it only to read losses."""

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from segue_training.errors import ConfigurationError, Diverged
from segue_training.recipes import TrainingConfig
from segue_training.text.vocabulary import Vocabulary
from segue_training.train import gradients
from segue_training.train import trainer as trainer_module
from segue_training.train.losses import PendingLosses
from segue_training.train.train_state import TrainState
from segue_training.train.trainer import Pace, Progress, Trainer, TrainingData
from torch.utils._python_dispatch import TorchDispatchMode

FAR = Pace(ahead=3, losses=7)
aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,  # item(), float(), bool()
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,  # and boolean masks as an index
    aten._unique2.default,
}
"""Operations whose result the host must know before it can go on."""


@pytest.fixture
def data(text: str) -> TrainingData:
    vocabulary = Vocabulary.from_text(text)
    ids = vocabulary.encode(text).astype(np.uint8)
    return TrainingData(ids[:5400], ids[5400:], len(vocabulary), int(vocabulary.encode("\n")[0]))


class Waits(TorchDispatchMode):
    """Counts the operations that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self.operations += 1
        masks = [i for i in args[1] if i is not None and i.dtype == torch.bool] if func is aten.index.Tensor else []
        if func in WAITING or masks:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


VARIANTS: dict[str, dict[str, Any]] = {
    "fused": {"layers": 2, "weight_dropout": 0.3, "layer_dropout": 0.2, "output_dropout": 0.1, "input_dropout": 0.1},
    "scratch": {"implementation": "scratch"},
    "bfloat16": {"implementation": "scratch", "precision": "bfloat16"},
    "float16": {"implementation": "scratch", "precision": "float16"},
    "d2l": {"optimizer": "sgd", "learning_rate": 1.0, "embedding": 0},
    "random": {"partition": "random"},
    "documents": {"documents": "lines"},
    "gru": {"architecture": "gru"},
    "mlp": {"architecture": "mlp"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_waits_for_nothing(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    """40 steps of the whole loop, with its reports and epochs."""
    reads: list[int] = []
    real = PendingLosses.read
    monkeypatch.setattr(PendingLosses, "read", lambda self: reads.append(1) or real(self))
    steps = 40
    trainer = Trainer(data, replace(tiny, **VARIANTS[variant], steps=1000, evaluations=1), pace=Pace(losses=16))

    def after_step(now: Trainer) -> None:
        if now.progression.step == steps:
            raise StopIteration

    with Waits() as waits, pytest.raises(StopIteration):
        trainer.train(lambda _: None, after_step)
    assert waits.operations > 10 * steps
    assert waits.found == []
    assert len(reads) == steps // 16


def test_the_count_sees_what_would_wait() -> None:
    with Waits() as waits:
        x = torch.tensor([1.0, math.nan])
        float(x[0])
        bool(x.isfinite().all())
        x[x.isfinite()]
        x.nonzero()
    assert len(waits.found) == 4


def test_a_step_can_be_taken_where_no_number_can_be_read(data: TrainingData, tiny: TrainingConfig) -> None:
    """Tensors of the device "meta" have no content: whatever asks for a number fails."""
    config = replace(tiny, implementation="scratch", optimizer="sgd", learning_rate=1.0)
    group = trainer_module.ProcessGroup(device=torch.device("meta"))
    trainer = Trainer(data, config, group, pace=Pace(losses=100))
    minibatches = trainer._minibatches()
    for _ in range(5):
        trainer.train_step(next(minibatches))
    with pytest.raises(Exception, match=r"(?i)meta"):
        trainer.train_state()


def run(data: TrainingData, config: TrainingConfig, pace: Pace) -> tuple[list[Progress], Trainer]:
    reports: list[Progress] = []
    trainer = Trainer(data, config, pace=pace)
    trainer.train(reports.append, lambda _: None)
    return reports, trainer


@pytest.mark.parametrize("variant", VARIANTS)
def test_results_do_not_depend_on_the_pace(data: TrainingData, tiny: TrainingConfig, variant: str) -> None:
    config = replace(tiny, **VARIANTS[variant], reset_rate=0.2, unknown_rate=0.1)
    (near, expected), (far, found) = (run(data, config, pace) for pace in (Pace(), FAR))
    assert [(r.step, r.loss) for r in far] == [(r.step, r.loss) for r in near]
    for ours, theirs in zip(found.progression.history, expected.progression.history, strict=True):
        assert replace(ours, seconds=0.0) == replace(theirs, seconds=0.0)
    assert [r.step for r in far if r.evaluation] == [r.step for r in near if r.evaluation] == [20, 40, 60]
    for name, weight in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], weight), name


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("step", [1, 20, 37])
@pytest.mark.parametrize("pace", [Pace(), FAR])
def test_a_run_that_was_far_ahead_resumes_bit_for_bit(
    data: TrainingData, tiny: TrainingConfig, step: int, pace: Pace
) -> None:
    """Minibatches that were made ahead are made again, and losses that were not read are in the state."""
    states: list[TrainState] = []

    def stop(trainer: Trainer) -> None:
        if trainer.progression.step == step:
            states.append(trainer.train_state())
            raise Stopped

    whole, reference = run(data, tiny, Pace())
    stopped = Trainer(data, tiny, pace=FAR)
    with pytest.raises(Stopped):
        stopped.train(lambda _: None, stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    again, reports = Trainer(data, tiny, pace=pace), list[Progress]()
    again.load_train_state(states[0])
    again.train(reports.append, lambda _: None)
    assert [r.loss for r in reports] == [r.loss for r in whole[step:]]
    assert [e.training for e in again.progression.history] == [e.training for e in reference.progression.history]
    for name, weight in reference.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name


def broken_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the loss of `step` NaN."""
    real, calls = gradients.cross_entropy, list[int]()

    def loss(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        return real(*arguments, **options) * (math.nan if len(calls) == step else 1.0)

    monkeypatch.setattr(gradients, "cross_entropy", loss)


def test_a_loss_that_is_not_finite_is_named_though_later_steps_were_taken(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 9)
    reports: list[Progress] = []
    with pytest.raises(Diverged, match="the loss of step 9 is nan"):
        Trainer(data, tiny, pace=FAR).train(reports.append, lambda _: None)
    assert [r.step for r in reports] == [1, 2, 3, 4, 5, 6, 7]


def test_nothing_is_saved_of_a_run_whose_broken_loss_was_not_read_yet(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 9)
    saved: list[TrainState] = []

    def save(trainer: Trainer) -> None:
        if trainer.progression.step == 10:
            saved.append(trainer.train_state())

    with pytest.raises(Diverged, match="the loss of step 9 is nan"):
        Trainer(data, tiny, pace=FAR).train(lambda _: None, save)
    assert not saved


def test_nothing_is_kept_of_a_run_whose_broken_loss_was_not_read_yet(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 19)
    measured: list[int] = []
    monkeypatch.setattr(trainer_module, "nats_in_rows", lambda *_, **__: measured.append(1) or 1.0)
    with pytest.raises(Diverged, match="the loss of step 19 is nan"):
        Trainer(data, tiny, pace=Pace(losses=1000)).train(lambda _: None, lambda _: None)
    assert not measured


def test_an_error_of_the_thread_ends_the_run(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "epoch", lambda *_: iter(()))
    with pytest.raises(ConfigurationError, match="too few to divide"):
        Trainer(data, tiny, pace=FAR).train(lambda _: None, lambda _: None)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_the_thread_ends_with_the_run(data: TrainingData, tiny: TrainingConfig) -> None:
    run(data, replace(tiny, steps=2), FAR)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize(
    ("changes", "device", "scaled"),
    [
        ({"precision": "float16"}, "cuda", True),
        ({"precision": "bfloat16"}, "cuda", True),
        ({"precision": "bfloat16", "implementation": "scratch"}, "cuda", False),
        ({"precision": "float16", "implementation": "scratch"}, "cpu", True),
        ({}, "cuda", False),
    ],
)
def test_a_loss_is_scaled_where_something_computes_in_float16(
    tiny: TrainingConfig, changes: dict[str, Any], device: str, scaled: bool
) -> None:
    """Under autocast cuDNN's layers do, also where bfloat16 was asked for."""
    config = replace(tiny, **changes)
    group = trainer_module.ProcessGroup(device=torch.device(device))
    assert gradients._is_scaled(trainer_module.new_model(30, config), config, group) == scaled


def test_a_state_of_a_run_whose_loss_was_not_scaled_yet_is_resumed(data: TrainingData, tiny: TrainingConfig) -> None:
    states: list[TrainState] = []
    config = replace(tiny, implementation="scratch", precision="bfloat16")
    Trainer(data, config).train(lambda _: None, lambda now: states.append(now.train_state()))
    scaled = Trainer(data, replace(config, precision="float16"))
    scaled.load_train_state(states[-1])
    scaled.train(lambda _: None, lambda _: None)
    assert scaled.progression.step == tiny.steps
