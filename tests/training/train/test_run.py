import signal
from dataclasses import replace
from pathlib import Path

import pytest
from segue_training.data.encoding import EncodedCorpus
from segue_training.errors import CorpusError, Interrupted
from segue_training.recipes import TrainingConfig
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint
from segue_training.train.distributed import ProcessGroup
from segue_training.train.run import Checkpointer, StopRequest, train, training_data
from segue_training.train.run_spec import RunSpec, begin_run, resume_run
from segue_training.train.train_state import read_train_state, train_state_files
from segue_training.train.trainer import Progress, Trainer


def spec(path: Path, config: TrainingConfig) -> RunSpec:
    return begin_run(str(path), None, "tiny", config, path.parent / "run")


def finished(path: Path, config: TrainingConfig) -> tuple[Checkpoint, EncodedCorpus]:
    made = spec(path, config)
    checkpoint = train(made, lambda _: None, ProcessGroup())
    assert checkpoint is not None
    return checkpoint, made.corpus


def test_a_checkpoint_says_where_it_comes_from(text_file: Path, tiny: TrainingConfig) -> None:
    checkpoint, corpus = finished(text_file, tiny)
    assert checkpoint.corpus.sha256 == corpus.sha256
    assert (checkpoint.recipe, checkpoint.training) == ("tiny", tiny)
    assert checkpoint.validation.carried.characters == len(corpus.validation)
    assert [e.step for e in checkpoint.history] == [20, 40, 60]


def test_what_only_validation_text_holds_is_unknown(tmp_path: Path, text: str, tiny: TrainingConfig) -> None:
    path = tmp_path / "x.txt"
    path.write_text(text + "##")
    checkpoint, _ = finished(path, replace(tiny, steps=3))
    assert "#" not in checkpoint.vocabulary.characters
    assert checkpoint.validation.fresh.unknown == 2


@pytest.mark.parametrize("architecture", ["lstm", "gru-reset-before", "mlp"])
def test_a_model_from_scratch_leaves_the_same_kind_of_checkpoint(
    text_file: Path, tiny: TrainingConfig, architecture: str
) -> None:
    config = replace(tiny, steps=3, architecture=architecture, implementation="scratch")
    checkpoint, corpus = finished(text_file, config)
    model = checkpoint.build_model()
    assert model.config == checkpoint.model
    assert ("recurrent.weight_hh_l0" in checkpoint.weights) == (architecture != "mlp")
    assert checkpoint.validation.fresh.characters == len(corpus.validation) - 1


@pytest.mark.parametrize(("length", "enough"), [(162, True), (161, False)])
def test_a_text_that_fills_no_step_is_told_the_length_it_needs(
    tmp_path: Path, tiny: TrainingConfig, length: int, enough: bool
) -> None:
    """145 training symbols are 9/10 of 162."""
    path = tmp_path / "short.txt"
    path.write_text("ab" * (length // 2) + "a" * (length % 2))
    if enough:
        assert finished(path, replace(tiny, steps=3))[0].validation.fresh.characters >= 1
        return
    with pytest.raises(CorpusError, match=r"has 144 symbols; this recipe needs 145 \(batch 8 x time 16\)"):
        spec(path, tiny)


def test_without_validation_text_nothing_is_trained(tmp_path: Path, tiny: TrainingConfig) -> None:
    path = tmp_path / "short.txt"
    path.write_text("ab" * 5)
    with pytest.raises(CorpusError, match="the last tenth, has 1 symbol and needs 2"):
        spec(path, replace(tiny, batch=1, time=1))


def test_an_empty_prompt_is_a_line_feed_or_else_the_most_frequent_character() -> None:
    assert Vocabulary.from_text("aaab\n").begin == "\n"
    assert Vocabulary.from_text("abbb").begin == "b"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_saves_whatever_the_clock_says(
    text_file: Path, tiny: TrainingConfig, number: signal.Signals
) -> None:
    made = spec(text_file, tiny)
    made.folder.mkdir()
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest() as stop:
        checkpointer = Checkpointer(made, ProcessGroup(), stop, save_every=3600)

        def after_step(run: Trainer) -> None:
            if run.progression.step == 7:
                signal.raise_signal(number)
            checkpointer(run)

        data = training_data(made.corpus)
        with pytest.raises(Interrupted, match=rf"stopped by {number.name} after step 7; continue") as caught:
            Trainer(data, tiny).train(lambda _: None, after_step)
    assert caught.value.exit_code == 128 + number
    assert read_train_state(made.folder)[1].progression.step == 7
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_run_that_was_interrupted_while_it_validated_has_no_step_to_repeat(
    text_file: Path, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = spec(text_file, tiny)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("segue_training.train.run_weights.validate", lambda *_: signal.raise_signal(signal.SIGINT))
        train(made, lambda _: None, ProcessGroup())
    reports: list[Progress] = []
    checkpoint = train(resume_run(made.folder, None, None, ()), reports.append, ProcessGroup())
    assert checkpoint is not None
    assert (reports, checkpoint.steps) == ([], finished(text_file, tiny)[0].steps)


def test_a_signal_during_the_last_step_is_heeded_before_validation(text_file: Path, tiny: TrainingConfig) -> None:
    made = spec(text_file, tiny)

    def report(progress: Progress) -> None:
        if progress.step == tiny.steps:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"after step {tiny.steps}"):
        train(made, report, ProcessGroup())


def test_the_train_state_is_saved_at_intervals(text_file: Path, tiny: TrainingConfig) -> None:
    made = spec(text_file, tiny)
    made.folder.mkdir()
    with StopRequest() as stop:
        for save_every, kept in ((3600, 0), (0, 2)):
            Trainer(training_data(made.corpus), tiny).train(
                lambda _: None, Checkpointer(made, ProcessGroup(), stop, save_every)
            )
            assert len(train_state_files(made.folder)) == kept
