import sys
from dataclasses import replace
from pathlib import Path

import pytest
from segue_training.errors import ConfigurationError
from segue_training.models import LanguageModel, build_model
from segue_training.recipes import TrainingConfig
from segue_training.reports.tensorboard import TensorBoardReport
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.train_state import Evaluation
from segue_training.train.trainer import Progress, learning_rate

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

VOCABULARY = Vocabulary(("<unk>", "\n", "#", "`", "a"))


@pytest.fixture
def config(tiny: TrainingConfig) -> TrainingConfig:
    return replace(tiny, steps=60)


def log(folder: Path, config: TrainingConfig, steps: range, evaluated: set[int], loss: float = 0.0) -> None:
    model: LanguageModel = build_model(config.model(len(VOCABULARY)))
    with TensorBoardReport(folder, config, VOCABULARY) as report:
        for step in steps:
            evaluation = (
                Evaluation(step, step * 128, step / 2, 2.0, 3.0 - step / 60, 0.1) if step in evaluated else None
            )
            report(Progress(step, loss + step, evaluation, model))


def read(folder: Path) -> "event_accumulator.EventAccumulator":  # type: ignore[name-defined]
    return event_accumulator.EventAccumulator(str(folder)).Reload()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value, rel=1e-5)) for event in read(folder).Scalars(tag)]


def test_what_tensorboard_reads_is_what_the_run_reported(tmp_path: Path, config: TrainingConfig) -> None:
    log(tmp_path, config, range(1, 61), {30, 60})
    # Means of steps 1-20, 21-30, 31-40, 41-60, whose losses are their numbers.
    assert scalars(tmp_path, "training/nats") == [(20, 10.5), (30, 25.5), (40, 35.5), (60, 50.5)]
    assert scalars(tmp_path, "validation/nats") == [(30, 2.5), (60, 2.0)]
    assert scalars(tmp_path, "speed") == [(30, 256.0), (60, 256.0)]
    rates = [(step, learning_rate(step - 1, config)) for step in (20, 30, 40, 60)]
    assert rates == scalars(tmp_path, "learning_rate")


def test_samples_are_logged_as_they_stand(tmp_path: Path, config: TrainingConfig) -> None:
    log(tmp_path, config, range(1, 61), {60})
    (event,) = read(tmp_path).Tensors("sample/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert all(line.startswith("    ") for line in text.splitlines())
    assert len(text.replace("    ", "").removesuffix("\n")) == 500


def test_a_resumed_run_replaces_the_steps_that_it_takes_again(tmp_path: Path, config: TrainingConfig) -> None:
    """The first process stopped after step 60, its last saved state being that of step 20."""
    log(tmp_path, config, range(1, 61), {30, 60})
    log(tmp_path, config, range(21, 61), {60}, loss=100.0)
    assert scalars(tmp_path, "training/nats") == [(20, 10.5), (40, 130.5), (60, 150.5)]


def test_the_speed_of_a_resumed_run_is_that_since_the_evaluation_before(tmp_path: Path, config: TrainingConfig) -> None:
    model: LanguageModel = build_model(config.model(len(VOCABULARY)))
    before, now = Evaluation(30, 300, 10.0, 2.0, 2.0, 0.1), Evaluation(60, 500, 14.0, 2.0, 2.0, 0.1)
    with TensorBoardReport(tmp_path, config, VOCABULARY, [before]) as report:
        report(Progress(60, 2.0, now, model))
    assert scalars(tmp_path, "speed") == [(60, 50.0)]


def test_without_tensorboard_the_remedy_is_named(
    tmp_path: Path, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[tensorboard\]'"):
        TensorBoardReport(tmp_path / "logs", config, VOCABULARY)
    assert not (tmp_path / "logs").exists()
