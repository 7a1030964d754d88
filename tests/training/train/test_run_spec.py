from dataclasses import replace
from pathlib import Path

import pytest
from segue_training.errors import ConfigurationError, CorpusError
from segue_training.recipes import TrainingConfig
from segue_training.train.run import training_data
from segue_training.train.run_spec import RunSpec, begin_run, resume_run
from segue_training.train.train_state import read_train_state, save_train_state, train_state_files
from segue_training.train.trainer import Trainer


class Stopped(Exception):  # noqa: N818
    pass


def train_to(step: int, spec: RunSpec) -> None:
    """Continue training, save the state after `step`, and stop."""

    def after_step(run: Trainer) -> None:
        if run.progression.step == step:
            save_train_state(spec.folder, spec.origin, run.train_state())
            raise Stopped

    run = Trainer(training_data(spec.corpus), spec.origin.training)
    if spec.train_state is not None:
        run.load_train_state(spec.train_state)
    with pytest.raises(Stopped):
        run.train(lambda _: None, after_step)


@pytest.fixture
def folder(text_file: Path, tiny: TrainingConfig) -> Path:
    """The folder of a run saved after steps 4 and 8."""
    spec = begin_run(str(text_file), None, "tiny", replace(tiny, evaluations=1), text_file.parent / "run")
    spec.folder.mkdir()
    for step in (4, 8):
        train_to(step, spec)
    return spec.folder


def test_a_run_that_went_back_is_resumed_where_it_came_to_since_then(folder: Path) -> None:
    train_to(6, resume_run(folder, 4, None, ("learning_rate=0.001",)))
    origin, train_state = read_train_state(folder)
    assert (train_state.progression.step, origin.training.learning_rate) == (6, 0.001)
    assert len(train_state_files(folder)) == 2


@pytest.mark.parametrize("steps", [5, 8])
def test_fewer_steps_than_were_taken_are_refused(folder: Path, steps: int) -> None:
    with pytest.raises(ConfigurationError, match=f"steps is {steps}, and the run has taken 8: set more, or resume"):
        resume_run(folder, None, None, (f"steps={steps}",))
    assert resume_run(folder, 4, None, (f"steps={steps}",)).origin.training.steps == steps


def test_where_a_corpus_has_moved_to_is_remembered(folder: Path, text_file: Path) -> None:
    moved = text_file.rename(text_file.with_name("moved.txt"))
    train_to(9, resume_run(folder, None, str(moved), ()))
    assert resume_run(folder, None, None, ()).origin.source == str(moved)


def test_documents_of_which_none_is_whole_are_refused(tmp_path: Path, tiny: TrainingConfig) -> None:
    path = tmp_path / "names.txt"
    path.write_text("margaret\n" * 20)
    with pytest.raises(CorpusError, match="holds no whole line: use a longer text or set a larger max_tokens"):
        begin_run(str(path), None, "tiny", replace(tiny, documents="lines", max_tokens=5), None)
